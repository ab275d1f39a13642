"""Components of the description that operations share: answers, errors and parameters, each under a name."""

import json
from collections.abc import Sequence

from service.web.api.error_responses import CODES
from service.web.openapi.answer_schemas import MOMENT, Json, list_of, object_of

META = object_of({"requestId": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}, "timestamp": MOMENT})
HEADERS: dict[str, Json] = {
    name: {"description": documented, "schema": {"type": kind}}
    for name, kind, documented in (
        ("x-request-id", "string", "the request's id: the client's if it is well-formed, else a new one"),
        ("RateLimit-Policy", "string", "each limit that applies (draft-ietf-httpapi-ratelimit-headers)"),
        ("RateLimit", "string", "what is left of each limit"),
        ("X-RateLimit-Limit", "integer", "of the tightest limit"),
        ("X-RateLimit-Remaining", "integer", "of the tightest limit"),
        ("X-RateLimit-Reset", "integer", "seconds until the tightest limit has more quota"),
        ("Retry-After", "integer", "seconds; a client that waits so long is admitted"),
        ("x-degraded", "string", "what was decided without Redis: limits, sessions"),
        ("x-auth-admitted", "string", "1: the request is admitted; a proxy must check it together with the status 200"),
        ("x-auth-tenant", "string", "the tenant"),
        ("x-auth-user", "string", "the user, percent-encoded"),
        ("x-auth-status", "string", "the user's status"),
        ("x-auth-expires", "string", "when the token expires"),
    )
}
_LIMITED = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_AUTH = ("x-auth-admitted", "x-auth-tenant", "x-auth-user", "x-auth-status", "x-auth-expires")


class Components:
    """Collects what operations refer to. Equal answers get one name, whatever operation asks first."""

    def __init__(self) -> None:
        self.schemas: dict[str, Json] = {"Meta": META}
        self.responses: dict[str, Json] = {}
        self.parameters: dict[str, Json] = {}
        self._names: dict[str, str] = {}

    def answer(self, name: str, description: str, data: Json, *, limited: bool, identity: bool) -> Json:
        """Return a reference to the response of an operation that succeeds."""
        envelope = object_of({"meta": _ref("schemas", "Meta"), "data": data})
        return self.response(name, description, _content(self._schema(name, envelope)), limited, identity)

    def response(self, name: str, description: str, content: Json, limited: bool, identity: bool = False) -> Json:
        """Return a reference to a response with its header fields."""
        shown = ["x-request-id", *(_LIMITED if limited else ()), *(_AUTH if identity else ())]
        return self.shared_response(name, {"description": description, "headers": _shown(shown), "content": content})

    def shared_response(self, name: str, response: Json) -> Json:
        """Return a reference to a response that is described whole."""
        return self._named("responses", name, response, self.responses)

    def error(self, group: str, status: int, codes: Sequence[str], limited: bool) -> Json:
        """Return a reference to the response of an error. `group` and `codes` make its name."""
        headers = ["x-request-id", *_LIMITED, "x-degraded"] if limited and status != 503 else ["x-request-id"]
        if status in (429, 503):
            headers.append("Retry-After")
        error: Json = {"message": {"type": "string"}, "code": {"enum": list(codes)}, "status": {"const": status}}
        if len({CODES[code] for code in codes}) > 1:
            error["status"] = {"type": "integer"}
        if "VALIDATION_ERROR" in codes:
            error["validation"] = list_of(object_of({"field": {"type": "string"}, "message": {"type": "string"}}))
        envelope = object_of({"meta": _ref("schemas", "Meta"), "error": object_of(error, optional=("validation",))})
        name = f"{group}Error{status}"
        schema = self._schema(name, envelope)
        response = {"description": ", ".join(codes), "headers": _shown(headers), "content": _content(schema)}
        return self.shared_response(name, response)

    def parameter(self, name: str, parameter: Json) -> Json:
        """Return a reference to a parameter."""
        self.parameters.setdefault(name, parameter)
        return _ref("parameters", name)

    def query_parameter(self, name: str, parameter: Json) -> Json:
        """Return a reference to a parameter of a query; two operations may have different ones of one name."""
        return self._named("parameters", f"query{camel(name)}", parameter, self.parameters)

    def _schema(self, name: str, schema: Json) -> Json:
        return self._named("schemas", name, schema, self.schemas)

    def _named(self, kind: str, name: str, value: Json, held: dict[str, Json]) -> Json:
        key = kind + json.dumps(value, sort_keys=True)
        if key not in self._names:
            unique, number = name, 1
            while unique in held:
                number += 1
                unique = f"{name}{number}"
            self._names[key], held[unique] = unique, value
        return _ref(kind, self._names[key])


def statuses_of(codes: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the error codes of an operation by their status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code], []).append(code)
    return sorted(by_status.items())


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _shown(names: Sequence[str]) -> Json:
    return {name: _ref("headers", name) for name in names}


def camel(text: str) -> str:
    """Return `some_words` as `SomeWords`."""
    return "".join(word[:1].upper() + word[1:] for word in text.split("_") if word)
