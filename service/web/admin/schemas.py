"""Types of the bodies and queries of the admin API. The description at /openapi.json is made from them."""

import asyncio
import json
from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import hdrs, web
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from service.core.admission import CAPABILITY
from service.core.errors import InvalidRequest
from service.core.limits import MAX_REQUESTS, MAX_WINDOW_S
from service.core.sessions import Status
from service.core.text.validation_messages import plain_message
from service.core.tokens.claims import MAX_USER_CHARS, is_user_id
from service.web.server import http_server

MAX_USERS = 1000
"""The users of one call."""
MAX_BODY_BYTES = 1024 * 1024
"""Enough for a call with that many users."""
MAX_REASON_CHARS = 500
MAX_PAGE = 500
MOST_MISTAKES = 20
"""The mistakes of one request that are listed: an answer must not be many times as long as its request."""


def _is_a_user(user: str) -> str:
    if not is_user_id(user):
        raise ValueError(f"must be a user: 1 to {MAX_USER_CHARS} characters without control characters")
    return user


_PRINTED: Any = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
"""The same rule as `_is_a_user`, for the description."""

User = Annotated[
    str,
    Field(min_length=1, max_length=MAX_USER_CHARS, json_schema_extra=_PRINTED),
    AfterValidator(_is_a_user),
]
Reason = Annotated[str, Field(max_length=MAX_REASON_CHARS)]
Subject = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_USER_CHARS,
        json_schema_extra=_PRINTED,
        description="the address as limits count it, the user, or - for the tenant",
    ),
    AfterValidator(_is_a_user),
]
Capability = Annotated[str, Field(pattern=CAPABILITY)]


def _only_text(value: Any) -> Any:
    if not isinstance(value, str | datetime | None):
        raise ValueError("must be a moment such as 2026-11-22T21:16:16Z, as text")
    return value


def _not_zero(value: Any) -> Any:
    """Refuse 0, which Python takes for False."""
    if not isinstance(value, bool):
        raise ValueError("must be false, or left out")
    return value


def _whole(value: Any) -> Any:
    """Read 60.0 as JSON Schema does; text and true are no numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_only_text)]
Whole = Annotated[int, BeforeValidator(_whole)]
NotEverywhere = Annotated[Literal[False], BeforeValidator(_not_zero)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False)


class ReasonBody(_Schema):
    """The reason of a change."""

    reason: Reason = ""


class ActBody(ReasonBody):
    """Suspend, reinstate or terminate one user."""

    everywhere: NotEverywhere = Field(False, description="is allowed with logout only")


class LogoutBody(ReasonBody):
    """Log out one user."""

    everywhere: bool = Field(False, strict=True, description="refuse the tokens issued until now as well")


class _ManyUsers(_Schema):
    """Many users: those that are named, or all that have a status."""

    status: Literal["logged_in", "logged_out", "expired", "suspended", "terminated"] | None = Field(
        None, description="all users of this status, about 1,000 in a call: repeat with `after` until `next` is null"
    )
    after: str | None = Field(None, pattern=r"^[0-9]{1,20}$", description="with `status`: `next` of the call before")
    users: list[User] = Field(
        default_factory=list, max_length=MAX_USERS, validate_default=True, description="this or `status`"
    )

    @field_validator("users")
    @classmethod
    def _users_or_status(cls, users: list[str], given: ValidationInfo) -> list[str]:
        status = given.data.get("status")
        if bool(users) == (status is not None):
            raise ValueError("needs users or status, and not both")
        if given.data.get("after") is not None and status is None:
            raise ValueError("after is allowed with status only")
        return users


class ManyBody(_ManyUsers, ActBody):
    """Suspend, reinstate or terminate many users."""


class LogoutManyBody(_ManyUsers, LogoutBody):
    """Log out many users."""


class RestrictBody(ReasonBody):
    """Restrict from a capability."""

    until: Moment | None = Field(None, description="in the future; null: until it is lifted")


class RevokeBody(ReasonBody):
    """Revoke tokens that were issued up to a moment."""

    before: Moment | None = Field(
        None,
        description="at most 5 s (or the tenant's leeway) ahead; null: now, which covers every token that exists, "
        "also one issued that far ahead",
    )


class LimitBody(ReasonBody):
    """A limit in place of the configured one."""

    requests: Whole = Field(ge=1, le=MAX_REQUESTS)
    window: Whole = Field(ge=1, le=MAX_WINDOW_S, description="seconds")


class ResetBody(ReasonBody):
    """The subject whose quota is restored."""

    subject: Subject


class SkipBody(ReasonBody):
    """The message to skip."""

    id: str | None = Field(None, max_length=256, description="skip only if this message waits; null: any")


class TerminateBody(ReasonBody):
    """How a user ends its own account."""

    strategy: Literal["soft", "hard"] = Field(description="soft: suspended, hard: terminated")


class SessionsQuery(_Schema):
    """The sessions to list."""

    status: Status | None = None
    user: User | None = Field(None, description="exactly this user")
    prefix: str = Field("", max_length=MAX_USER_CHARS, description="users with this prefix; about 1,000 are searched")
    order: Literal["index", "lastSeen"] = Field(
        "index",
        description="`index`: whoever follows `next` gets each user at least once; `lastSeen`: newest first, without "
        "those who become active meanwhile, and not with `prefix`",
    )
    after: str | None = Field(
        None, description="`next` of the page before", json_schema_extra={"pattern": r"^(~[0-9]{1,20}|[0-9]{1,15})\."}
    )
    limit: int = Field(50, ge=1, le=MAX_PAGE)


class SubjectQuery(_Schema):
    """The subject of a limit."""

    subject: Subject


class UserQuery(_Schema):
    """The user, for a path that does not name one."""

    user: User


class ReplaceQuery(_Schema):
    """Whether a change may replace a stricter setting."""

    replace: bool = Field(False, description="set exactly what is sent, even in place of a stricter setting")


class UserReplaceQuery(UserQuery, ReplaceQuery):
    """The same, for a path that does not name the user."""


class RemovalQuery(_Schema):
    """Where a removal continues."""

    after: str | None = Field(
        None, pattern=r"^([0-9]{1,20}|indexes)$", description="`next` of the call before; null: begin"
    )


class HistoryQuery(_Schema):
    """The page of a user's events."""

    events: str | None = Field(
        None,
        pattern=r"^[0-9]{1,15}-[0-9]{1,19}$",
        description="`eventsNext` of the page before; null: the newest",
    )


class UserHistoryQuery(UserQuery, HistoryQuery):
    """The same, for a path that does not name the user."""


class EventsQuery(_Schema):
    """The tenant whose events are sent."""

    tenant: str
    ping: int | None = Field(
        None, ge=1, le=60, description="seconds that comments are at most apart; null: they are 15 s apart"
    )


Schema = TypeVar("Schema", bound=BaseModel)


async def read_body(request: web.Request, schema: type[Schema]) -> Schema:
    """Return the body as `schema`; no body counts as `{}`.

    Raises:
        InvalidRequest: the body does not fit the schema.
        web.HTTPRequestEntityTooLarge: the body is too long.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        raise web.HTTPBadRequest
    content = bytearray()
    try:
        async with asyncio.timeout(http_server.BODY_DEADLINE_S):
            async for part in request.content.iter_any():
                content += part
                if len(content) > MAX_BODY_BYTES:
                    raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY_BYTES, actual_size=len(content))
    except (web.RequestPayloadError, ConnectionError, TimeoutError) as error:
        raise web.HTTPBadRequest from error
    try:
        read = schema.model_validate_json(bytes(content) or b"{}")
    except ValidationError as error:
        raise _mistakes(error) from None
    json.loads(bytes(content) or b"{}", object_pairs_hook=_unique)
    return read


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a member that is repeated: readers differ in which of the two they take (RFC 8259, section 4)."""
    if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
        raise InvalidRequest([(name, "appears more than once") for name in twice])
    return dict(pairs)


def read_query(request: web.Request, schema: type[Schema]) -> Schema:
    """Return the query as `schema`.

    Raises:
        InvalidRequest: the query does not fit the schema.
    """
    given: dict[str, Any] = {}
    for name in request.query:
        values = request.query.getall(name)
        if len(values) > 1:
            raise InvalidRequest([(name, "appears more than once")])
        given[name] = values[0]
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _mistakes(error) from None


def read_user(request: web.Request) -> str:
    """Return the user that the path or the query names.

    Raises:
        InvalidRequest: no user can have that name.
    """
    if "user" not in request.match_info:
        return read_query(request, UserQuery).user
    user = request.match_info["user"]
    try:
        return _is_a_user(user)
    except ValueError as error:
        raise InvalidRequest([("user", str(error))]) from None


def read_user_and_events(request: web.Request) -> tuple[str, str]:
    """Return the user that the path or the query names, and the event with which the page begins ('': the newest).

    Raises:
        InvalidRequest: no user or no event can have that name.
    """
    if "user" not in request.match_info:
        query = read_query(request, UserHistoryQuery)
        return query.user, query.events or ""
    return read_user(request), read_query(request, HistoryQuery).events or ""


def _mistakes(error: ValidationError) -> InvalidRequest:
    if error.error_count() > MOST_MISTAKES:
        return InvalidRequest([("body", f"has {error.error_count()} mistakes")])
    return InvalidRequest(
        [
            (".".join(map(str, one["loc"])) or "body", plain_message(one))
            for one in error.errors(include_url=False, include_input=False)
        ]
    )


def moment_ms(moment: datetime | None) -> int | None:
    """Return a moment in milliseconds since the epoch, at least 1."""
    return None if moment is None else max(1, int(moment.timestamp() * 1000))
