"""The description of the API: OpenAPI 3.1, written once.

Bodies and queries come from `schemas.py`, errors from `error_responses.py`. `tests/web/test_openapi.py` compares the
description with the routes and with their answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.core.admission import CAPABILITY
from service.core.sessions import RECORDED
from service.core.tokens.claims import MAX_USER_CHARS
from service.web.admin import schemas
from service.web.openapi.answer_schemas import (
    A_SESSION,
    A_USER,
    ACTIVITY,
    AN_ACT,
    APPLIED,
    COUNT,
    COUNTS,
    LIMIT,
    LIMIT_STATE,
    LINKS,
    LISTED_LIMIT,
    MANY_RESULTS,
    ONE_WEBHOOK,
    ORDERED,
    REVOKED,
    RULES,
    SCHEMAS,
    SESSIONS_PAGE,
    SKIPPED,
    SUCCESS,
    TIME,
    WEBHOOK,
    Json,
    list_of,
    object_of,
)
from service.web.openapi.components import HEADERS, Components, camel, statuses_of
from service.web.openapi.event_schemas import event_schemas, webhooks

TENANT_AND_USER: list[Json] = [{"tenant": [], "user": []}, {"tenant": [], "userBearer": []}]
OPERATOR: list[Json] = [{"operator": []}]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    data: Json | None = None
    """The schema of the answer's `data`; None: the answer is not the envelope."""
    status: int = 200
    security: Sequence[Json] = ()
    errors: Sequence[str] = ()
    """Error codes besides those of every request."""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Sequence[str] = ()
    content: Mapping[str, Json] = field(default_factory=dict)
    """The answer's content, if it is not the envelope."""


_ANY = ("BAD_REQUEST", "INTERNAL_SERVER")
_OF_USERS = (
    *("MISSING_TENANT_TOKEN", "INVALID_TENANT_TOKEN", "MISSING_USER_TOKEN", "INVALID_USER_TOKEN", "EXPIRED_USER_TOKEN"),
    *("USER_SUSPENDED", "USER_TERMINATED", "RESTRICTED_CAPABILITY", "TOO_MANY_REQUESTS", "SERVICE_UNAVAILABLE"),
)
_OF_OPERATORS = (
    *("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "TOO_MANY_REQUESTS", "SERVICE_UNAVAILABLE"),
    *("VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"),
)


def _users(method: str, path: str, summary: str, data: Json, **how: Any) -> Operation:
    errors = (*_OF_USERS, *how.pop("errors", ()))
    return Operation(method, path, summary, data, security=TENANT_AND_USER, errors=errors, **how)


def _operators(method: str, path: str, summary: str, data: Json | None = SUCCESS, **how: Any) -> Operation:
    errors = (*_OF_OPERATORS, *how.pop("errors", ()))
    return Operation(method, f"/admin/v1{path}", summary, data, security=OPERATOR, errors=errors, **how)


def _verify() -> list[Operation]:
    found = []
    how: Any = {"errors": ("FORBIDDEN", "VALIDATION_ERROR"), "headers": ("x-auth-*",)}
    for path, whose in (("", "any proxy"), ("/{proxy}", "the proxy that the path names")):
        for method in ("get", "head", "post", "put", "patch", "delete", "options"):
            summary = f"Forward-auth for {whose}: is this request admitted?"
            more = {"errors": (*how["errors"], "NOT_FOUND")} if path else {}
            found.append(_users(method, f"/auth/verify{path}", summary, SUCCESS, **{**how, **more}))
    return found


def _of_a_tenant() -> list[Operation]:
    at = "/tenants/{tenant}"
    # By path, and by query for names that clients remove from a path.
    users: list[tuple[str, type[BaseModel] | None]] = [
        (f"{at}/users/{{user}}", None),
        (f"{at}/user", schemas.UserQuery),
    ]
    limits = {"type": "object", "additionalProperties": LIMIT}
    found = [
        _operators("get", at, "Counts, restrictions, revocation and limits", object_of({"tenant": {"type": "string"}, "counts": COUNTS, "restrictedByConfiguration": list_of({"type": "string"}), **RULES, "limits": limits}, optional=["note"])),
        _operators("get", f"{at}/activity", "The last hour", object_of(ACTIVITY)),
        _operators("get", f"{at}/webhooks", "The last delivered event of each webhook, and its failed attempts", object_of({"webhooks": list_of(WEBHOOK)})),
        _operators("get", f"{at}/webhooks/{{webhook}}", "One webhook, the message that waits, and those that were set aside", ONE_WEBHOOK),
        _operators("post", f"{at}/webhooks/{{webhook}}/pause", "Send nothing until the webhook is resumed", ORDERED, body=schemas.ReasonBody),
        _operators("post", f"{at}/webhooks/{{webhook}}/resume", "Send again, beginning with the message that waits", ORDERED, body=schemas.ReasonBody),
        _operators("post", f"{at}/webhooks/{{webhook}}/skip", "Skip the message that waits; the receiver gets a gap", SKIPPED, errors=("CONFLICT",), body=schemas.SkipBody),
        _operators("get", f"{at}/sessions", "Sessions: a walk over all, or newest first", SESSIONS_PAGE, query=schemas.SessionsQuery),
        _operators("get", f"{at}/limits", "Limits, as configured and as they apply", object_of({"limits": list_of(LISTED_LIMIT)})),
        _operators("get", f"{at}/limits/{{limit}}", "How much a subject has used, without using any", object_of({**LIMIT_STATE, "remaining": COUNT, "reset": COUNT}), query=schemas.SubjectQuery),
        _operators("put", f"{at}/limits/{{limit}}", "Set a limit in place of the configured one; the last value applies", object_of({"success": {"const": True}, "applied": APPLIED, "requests": COUNT, "window": COUNT, "previous": LIMIT}), body=schemas.LimitBody),
        _operators("delete", f"{at}/limits/{{limit}}", "Return to the configured limit", body=schemas.ReasonBody),
        _operators("post", f"{at}/limits/{{limit}}/reset", "Restore the whole quota of a subject", object_of({"success": {"const": True}, "wasUsed": {"type": "boolean"}}), body=schemas.ResetBody),
    ]  # fmt: skip
    actions = ("logout", "suspend", "reinstate", "terminate")
    found += [_operators("post", f"{at}/sessions/{act}", f"{act.capitalize()} many users, or all of a status", MANY_RESULTS, body=schemas.LogoutManyBody if act == "logout" else schemas.ManyBody) for act in actions]  # fmt: skip
    for user, query in users:
        found += [
            _operators("get", user, "One user, with history", A_USER, query=schemas.HistoryQuery if query is None else schemas.UserHistoryQuery),
            _operators("delete", user, "Forget a user, unless it is terminated", errors=("CONFLICT",), body=schemas.ReasonBody, query=query),
            *(_operators("post", f"{user}/{act}", f"{act.capitalize()} a user", AN_ACT, errors=("CONFLICT",), body=schemas.LogoutBody if act == "logout" else schemas.ActBody, query=query) for act in actions),
        ]  # fmt: skip
    for whose, query in [(at, None), *users]:
        replace = schemas.ReplaceQuery if query is None else schemas.UserReplaceQuery
        found += [
            _operators("put", f"{whose}/restrictions/{{capability}}", "Restrict from a capability; a longer restriction stays", object_of({"success": {"const": True}, "applied": APPLIED, "until": {**TIME, "description": "until when it holds; null: until it is lifted"}, "note": {"type": "string"}}, optional=["note"]), body=schemas.RestrictBody, query=replace),
            _operators("delete", f"{whose}/restrictions/{{capability}}", "Lift a restriction", body=schemas.ReasonBody, query=query),
            _operators("put", f"{whose}/revocation", "Revoke the tokens issued up to a moment; a later moment stays", object_of({"applied": APPLIED, **REVOKED}, optional=["note"]), body=schemas.RevokeBody, query=replace),
            _operators("delete", f"{whose}/revocation", "Lift the revocation", object_of({"success": {"const": True}, "applied": APPLIED}), body=schemas.ReasonBody, query=query),
        ]  # fmt: skip
    return found


@cache
def operations() -> tuple[Operation, ...]:
    """Return all operations for programs."""
    text: Callable[[str], Mapping[str, Json]] = lambda kind: {kind: {"schema": {"type": "string"}}}  # noqa: E731
    alive = object_of({"status": {"const": "ok"}})
    ready = object_of({"status": {"const": "ready"}, "warnings": list_of({"type": "string"})})
    out = "Log out; the token stays valid"
    stream = text("text/event-stream")
    tenants = object_of({"tenants": list_of(object_of({"tenant": {"type": "string"}, "counts": COUNTS}))})
    return (
        _users("post", "/auth/logout", out, SUCCESS),
        _users("get", "/auth/logout", f"{out}; use POST, since a GET may be prefetched or repeated (403 for a prefetch)", SUCCESS, errors=("FORBIDDEN",)),
        _users("get", "/auth/status", "The user's status after this request", A_SESSION, errors=("VALIDATION_ERROR",)),
        _users(
            "post", "/auth/terminate", "End one's own account", SUCCESS,
            status=201, body=schemas.TerminateBody, errors=("VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"),
        ),
        *_verify(),
        _operators("get", "", "The routes to begin with", LINKS),
        _operators("get", "/tenants", "The operator's tenants", tenants),
        _operators("get", "/leftovers", "Leftovers of unconfigured tenants", object_of({"tenants": list_of(object_of({"tenant": {"type": "string"}, "counts": {"type": "object", "additionalProperties": COUNT}, "hasRules": {"type": "boolean"}}))})),
        _operators("delete", "/leftovers/{leftover}", "Remove an unconfigured tenant's leftovers, a part in each call", object_of({"success": {"const": True}, "removed": COUNT, "next": {"type": ["string", "null"], "description": "`after` of the next call; null: nothing is left"}}), errors=("CONFLICT",), query=schemas.RemovalQuery),
        _operators("get", "/events", "Events as they happen", None, query=schemas.EventsQuery, content=stream, headers=("last-event-id",)),
        *_of_a_tenant(),
        Operation("get", "/", "Links; a browser is redirected to the dashboard", LINKS),
        Operation("get", "/healthz", "The process is alive", alive),
        Operation("get", "/readyz", "Redis answers", ready, errors=("SERVICE_UNAVAILABLE",)),
        Operation("get", "/metrics", "Prometheus text", errors=("UNAUTHORIZED",), content=text("text/plain"), security=[{}, {"metrics": []}]),
        Operation("get", "/openapi.json", "This description", content={"application/json": {"schema": {"type": "object"}}}),
    )  # fmt: skip


_TAGS = {
    "auth": "What a tenant's own clients and proxies call, with the tenant's token and the user's",
    "admin": "What operators call: sessions, restrictions, limits, webhooks, events",
    "service": "Health, metrics and this description",
    "webhooks": "What the receivers of a tenant's events get",
}


@cache
def document(version: str) -> Json:
    """Return the OpenAPI document."""
    used = {model for one in operations() for model in (one.body,) if model is not None}
    _, definitions = models_json_schema([(model, "validation") for model in sorted(used, key=lambda one: one.__name__)])
    definitions = _moved(definitions.get("$defs", {}))
    components = Components()
    paths: dict[str, Json] = {}
    for one in operations():
        paths.setdefault(one.path, {})[one.method] = _operation(one, components)
    messages = webhooks(components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rollcall",
            "version": version,
            "description": "Session status, sliding-window limits and restrictions in front of a multi-tenant API.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": documented} for name, documented in _TAGS.items()],
        "paths": paths,
        "webhooks": messages,
        "components": {
            "schemas": {**SCHEMAS, **event_schemas(), **definitions, **components.schemas},
            "responses": components.responses,
            "parameters": components.parameters,
            "headers": HEADERS,
            "securitySchemes": {
                "tenant": {"type": "apiKey", "in": "header", "name": "x-tenant-token"},
                "user": {"type": "apiKey", "in": "header", "name": "x-token", "description": "the user's JWT"},
                "userBearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "operator": {"type": "http", "scheme": "bearer"},
                "metrics": {"type": "http", "scheme": "bearer"},
            },
        },
    }


_PRINTED = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_PARAMETERS: dict[str, Json] = {
    "tenant": {"schema": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"}},
    "leftover": {"schema": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"}},
    "user": {
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_USER_CHARS, "pattern": _PRINTED},
        "description": "percent-encoded",
    },
    "capability": {"schema": {"type": "string", "pattern": CAPABILITY}},
    "limit": {"schema": {"type": "string", "minLength": 1}},
    "webhook": {"schema": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"}},
    "proxy": {
        "schema": {"type": "string", "enum": ["nginx", "haproxy", "traefik", "caddy", "envoy"]},
        "description": "which fields describe the original request; for envoy its path follows in the path",
    },
}


def _operation(one: Operation, components: Components) -> Json:
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    parameters = [
        components.parameter(name, {"name": name, "in": "path", "required": True, **_PARAMETERS[name]})
        for name in names
    ]
    if one.query is not None:
        parameters += _query(one.query, components)
    if one.security is TENANT_AND_USER and one.path not in ("/auth/logout", "/auth/terminate"):
        schema: Json = {"type": "string", "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"}
        documented = "true: answer without a change of the status; false, or absent: the request is a use of the token"
        parameter = {"name": "x-passive", "in": "header", "schema": schema, "description": documented}
        parameters.append(components.parameter("passive", parameter))
    if "last-event-id" in one.headers:
        documented = "continue after this event"
        parameters.append({"name": "last-event-id", "in": "header", "schema": {"type": "string", "pattern": r"^\d{1,15}-\d{1,19}$"}, "description": documented})  # fmt: skip
    request_id = {"name": "x-request-id", "in": "header", "schema": {"type": "string"}}
    parameters.append(components.parameter("requestId", request_id))
    operation_id = "_".join([one.method, *(part.strip("{}") for part in one.path.split("/") if part)])
    described: Json = {
        "operationId": operation_id.replace("-", "_").replace(".", "_"),
        "summary": one.summary,
        "tags": [one.path.split("/")[1] if one.path.count("/") > 1 else "service"],
        "parameters": parameters,
        "responses": _responses(one, operation_id, components),
        "security": list(one.security),
    }
    if one.body is not None:
        schema = {"$ref": f"#/components/schemas/{one.body.__name__}"}
        needed = bool(one.body.model_json_schema().get("required"))
        described["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    return described


def _query(model: type[BaseModel], components: Components) -> list[Json]:
    schema = model.model_json_schema(by_alias=True)
    shared, required = _moved(schema.get("$defs", {})), schema.get("required", [])
    found = []
    for name, one in schema["properties"].items():
        if "anyOf" in one:  # a query has no null
            [kept] = [part for part in one["anyOf"] if part.get("type") != "null"]
            one = {**{key: value for key, value in one.items() if key not in ("anyOf", "default")}, **kept}
        if "$ref" in one:
            one = {**shared[one.pop("$ref").rpartition("/")[2]], **one}
        if name == "status":
            one["enum"] = list(RECORDED)
        one.pop("title", None)
        parameter = {"name": name, "in": "query", "required": name in required, "schema": one}
        found.append(components.query_parameter(name, parameter))
    return found


def _responses(one: Operation, operation_id: str, components: Components) -> Json:
    group = "User" if one.security is TENANT_AND_USER else "Operator" if one.security is OPERATOR else "Service"
    limited, identity = group != "Service", "x-auth-*" in one.headers
    name = camel(operation_id)
    if one.data is not None:
        documented = "Done" if one.data is SUCCESS else one.summary
        found = {str(one.status): components.answer(name, documented, one.data, limited=limited, identity=identity)}
    else:
        found = {str(one.status): components.response(name, one.summary, dict(one.content), limited)}
    for status, codes in statuses_of((*_ANY, *one.errors)):
        # A proxy that knows 401 and 403 alone gets 403 for every refusal; the body says what it was.
        listed = sorted({*_ANY, *one.errors}) if status == 403 and identity else codes
        found[str(status)] = components.error(group, status, listed, limited)
    return found


def _moved(definitions: Any) -> Any:
    """Return pydantic's definitions with references to where OpenAPI has them, without the titles it makes of names."""
    if isinstance(definitions, dict):
        return {
            name: value.replace("#/$defs/", "#/components/schemas/") if name == "$ref" else _moved(value)
            for name, value in definitions.items()
            if not (name == "title" and isinstance(value, str))
        }
    return [_moved(one) for one in definitions] if isinstance(definitions, list) else definitions
