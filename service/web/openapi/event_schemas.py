"""JSON Schemas of events, and of the messages that webhooks deliver."""

from service.core.session_lists import EVENT_TYPES
from service.core.sessions import RECORDED, Cause, Status
from service.web.openapi.answer_schemas import COUNT, MOMENT, Json
from service.web.openapi.components import Components

_TEXT: Json = {"type": "string"}
_USER: Json = {"type": "string", "description": "the user; absent: the event concerns the whole tenant"}
_COMMON: Json = {
    "id": {"type": "string", "pattern": r"^\d+-\d+$", "description": "its position in the tenant's stream"},
    "at": MOMENT,
    "by": {"type": "string", "description": "who did it: an operator, user or sweep"},
    "ip": _TEXT,
    "requestId": _TEXT,
    "reason": _TEXT,
}
_MEMBERS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "transition": (
        {
            "userId": _TEXT,
            "from": {"type": "string", "enum": list(Status)},
            "to": {"type": "string", "enum": list(RECORDED)},
            "cause": {"type": "string", "enum": list(Cause)},
        },
        ("userId", "from", "to", "cause"),
    ),
    "restriction": (
        {
            "capability": _TEXT,
            "change": {"type": "string", "enum": ["set", "lifted"]},
            "until": {**MOMENT, "description": "absent: until it is lifted"},
            "userId": _USER,
        },
        ("capability", "change"),
    ),
    "revocation": (
        {
            "change": {"type": "string", "enum": ["set", "lifted"]},
            "before": {**MOMENT, "description": "tokens issued up to this moment are refused"},
            "userId": _USER,
        },
        ("change",),
    ),
    "limit": (
        {
            "limit": _TEXT,
            "change": {"type": "string", "description": "set, unset or reset"},
            "requests": COUNT,
            "window": COUNT,
            "previousRequests": COUNT,
            "previousWindow": COUNT,
            "subject": _TEXT,
        },
        ("limit", "change"),
    ),
    "forgotten": ({"userId": _TEXT, "from": {"type": "string", "enum": list(Status)}}, ("userId", "from")),
    "refusal": (
        {
            "count": {**COUNT, "description": "refusals of this kind in the sample"},
            "all": {**COUNT, "description": "all refusals in the sample"},
            "code": _TEXT,
            "operation": _TEXT,
            "limit": _TEXT,
            "shadow": {"type": "string", "description": "true: the limit only reports"},
        },
        ("count", "all"),
    ),
}
_GAP: Json = {
    "tenant": _TEXT,
    "after": {"type": ["string", "null"], "description": "the last event before the gap"},
    "cause": {"type": "string", "enum": ["lost", "skipped", "gave_up"]},
    "skipped": {
        "type": "object",
        "description": "the message that is not delivered",
        "properties": {"id": _TEXT, "type": _TEXT},
        "required": ["id", "type"],
    },
    "by": {"type": "string", "description": "the operator who skipped it"},
    "reason": _TEXT,
}
_FIELDS = (
    ("webhook-id", "the same for each attempt"),
    ("webhook-timestamp", "seconds since the epoch"),
    ("webhook-signature", "v1 and base64, for each secret, separated by spaces"),
)
_AGAIN = "The message is sent again, not before Retry-After"
_ANSWERS = {
    "2XX": ("Received", "The message arrived"),
    "410": ("Disabled", "Nothing more is sent until an operator resumes the webhook"),
    "429": ("Postponed", _AGAIN),
    "503": ("Postponed", _AGAIN),
    "default": ("Repeated", "The message is sent again; later messages wait behind it"),
}
"""Status of a receiver's answer → the name of the response, and what it means."""


def event_name(kind: str) -> str:
    """Return the name of the schema of events of this type."""
    return f"{kind.capitalize()}Event"


def event_schemas() -> dict[str, Json]:
    """Return the schemas of each type of event, and of any event."""
    found: dict[str, Json] = {}
    for kind in EVENT_TYPES:
        members, required = _MEMBERS[kind]
        properties = {"id": _COMMON["id"], "type": {"type": "string", "const": kind}, **members, **_COMMON}
        found[event_name(kind)] = {
            "type": "object",
            "properties": properties,
            "required": ["id", "at", "type", *required],
        }
    references = {kind: f"#/components/schemas/{event_name(kind)}" for kind in EVENT_TYPES}
    found["Event"] = {
        "description": "One event; its members depend on `type`",
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }
    return found


def webhooks(components: Components) -> dict[str, Json]:
    """Return the requests that a webhook's receiver gets, by the type of their message."""
    tenant: Json = {"type": "object", "properties": {"tenant": _TEXT}, "required": ["tenant"]}
    data: dict[str, Json] = {
        kind: {"allOf": [tenant, {"$ref": f"#/components/schemas/{event_name(kind)}"}]} for kind in EVENT_TYPES
    }
    data["gap"] = {"type": "object", "properties": _GAP, "required": ["tenant", "after", "cause"]}
    return {kind: {"post": _message(kind, one, components)} for kind, one in data.items()}


def _message(kind: str, data: Json, components: Components) -> Json:
    properties = {"type": {"type": "string", "const": kind}, "timestamp": MOMENT, "data": data}
    schema = {"type": "object", "properties": properties, "required": ["type", "timestamp", "data"]}
    summary = "Events that the receiver does not get" if kind == "gap" else f"An event of type {kind}"
    return {
        "operationId": f"receive_{kind}",
        "summary": summary,
        "description": "Signed by the rules of Standard Webhooks.",
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            components.parameter(
                name, {"name": name, "in": "header", "required": True, "schema": _TEXT, "description": documented}
            )
            for name, documented in _FIELDS
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            status: components.shared_response(name, {"description": documented})
            for status, (name, documented) in _ANSWERS.items()
        },
    }
