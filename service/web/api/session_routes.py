"""Handlers of `/auth/logout`, `/auth/status` and `/auth/terminate`."""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from aiohttp import web

from service.core.admission import Terms
from service.core.sessions import MOST_SESSIONS, Cause, Session, Status
from service.core.text.timestamps import quoted_timestamp
from service.web.admin.schemas import TerminateBody, read_body
from service.web.api.envelope import DONE, quoted, success, success_of
from service.web.app_keys import REQUEST_CONTEXT, RequestContext
from service.web.server.request_head import AnyRequest
from service.web.server.responses import ApiResponse


async def logout(request: web.Request) -> web.StreamResponse:
    """See `logged_out`."""
    return logged_out(request, request[REQUEST_CONTEXT]).to_aiohttp()


def logged_out(_: AnyRequest, context: RequestContext) -> ApiResponse:
    """Answer success: the admission has set the status to `logged_out`."""
    context.admitted()
    return success_of(context, DONE)


async def status(request: web.Request) -> web.StreamResponse:
    """See `session_status`."""
    return session_status(request, request[REQUEST_CONTEXT]).to_aiohttp()


def session_status(_: AnyRequest, context: RequestContext) -> ApiResponse:
    """Answer with the user's session after this request."""
    identity, admission = context.admitted()
    if admission.session is not None:
        return success_of(context, *_session_json(identity.tenant, admission.session))
    # Without Redis only the token is known. With it, only a passive request of an unknown user gets here.
    status, expires_ms = (None, identity.expires_ms) if "sessions" in admission.degraded else (Status.NONE, None)
    return success_of(context, _data(identity.tenant, identity.user, status, None, (None, None, expires_ms)))


@lru_cache(maxsize=MOST_SESSIONS)
def _session_json(tenant: str, session: Session) -> tuple[str, int]:
    """Return a session as JSON, and the latest past moment in it."""
    times_ms = session.since_ms, session.seen_ms, session.expires_ms
    data = _data(tenant, session.user, session.status, session.previous, times_ms)
    return data, session.changed_ms


def _data(
    tenant: str, user: str, status: Status | None, previous: Status | None, times_ms: Iterable[int | None]
) -> str:
    # Formatted member by member: an encoder would cost more, and this runs for each request.
    since, seen, expires = map(quoted_timestamp, times_ms)
    return (
        f'{{"tenant": "{tenant}", "userId": {quoted(user)}, "status": {_quoted(status)}, '
        f'"previousStatus": {_quoted(previous)}, "since": {since}, "lastSeen": {seen}, "tokenExpiresAt": {expires}}}'
    )


def _quoted(status: Status | None) -> str:
    return "null" if status is None else f'"{status}"'


async def ending(request: web.Request, terms: Terms) -> Terms:
    """Return the terms for ending one's own account: `soft` suspends it, `hard` terminates it."""
    body = await read_body(request, TerminateBody)
    cause = Cause.OWN_SUSPEND if body.strategy == "soft" else Cause.OWN_TERMINATE
    return replace(terms, cause=cause, reason=body.reason)


async def terminate(request: web.Request) -> web.StreamResponse:
    """Answer success: the admission has ended the account."""
    request[REQUEST_CONTEXT].admitted()
    return success(request, {"success": True}, status=201)
