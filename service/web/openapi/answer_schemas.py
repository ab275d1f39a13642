"""JSON Schemas of the answers' data, which `description.py` puts together."""

from collections.abc import Sequence
from typing import Any

from service.core.sessions import RECORDED, Status

Json = dict[str, Any]
TIME: Json = {"type": ["string", "null"], "format": "date-time", "description": "UTC with milliseconds; null: unknown"}
MOMENT: Json = {"type": "string", "format": "date-time"}
COUNT: Json = {"type": "integer", "minimum": 0}


def object_of(properties: Json, optional: Sequence[str] = ()) -> Json:
    """An object with these members and no others; all but `optional` are required."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def nullable(schema: Json) -> Json:
    """Return a schema that also allows null."""
    return {"oneOf": [schema, {"type": "null"}]}


def list_of(items: Json) -> Json:
    """A list of `items`."""
    return {"type": "array", "items": items}


SESSION_MEMBERS: Json = {
    "tenant": {"type": "string"},
    "userId": {"type": "string"},
    "status": {"type": ["string", "null"], "enum": [*Status, None]},
    "previousStatus": {"type": ["string", "null"], "enum": [*Status, None]},
    "since": TIME,
    "lastSeen": TIME,
    "tokenExpiresAt": TIME,
}
SESSION = object_of(SESSION_MEMBERS)
LIMIT = object_of({"requests": {"type": "integer"}, "window": {"type": "integer", "description": "seconds"}})
RESTRICTIONS = list_of(object_of({"capability": {"type": "string"}, "until": TIME}))
COUNTS = object_of({status.value: COUNT for status in RECORDED})
SUCCESS = object_of({"success": {"const": True}})
APPLIED: Json = {
    "type": "boolean",
    "description": "false: nothing changed, because the same or a stricter setting applies already",
}
REVOKED: Json = {  # tokens issued up to the first moment are refused, those issued from the second on are accepted
    **{name: {**MOMENT, "description": "by whole seconds of `iat`"} for name in ("revokedBefore", "newTokensFrom")},
    "tokensCarryIat": {
        "type": ["boolean", "null"],
        "description": "false: this user's tokens carry no `iat`, so they stay refused until the revocation is lifted; "
        "null: not known",
    },
    "note": {"type": "string", "description": "the revocation lies ahead of the clock: what to do"},
}
RULES: Json = {"restrictions": RESTRICTIONS, "revokedBefore": TIME, "note": REVOKED["note"]}
RESULT = object_of(
    {
        "userId": {"type": "string"},
        "done": {"type": "boolean"},
        "applied": APPLIED,
        "status": {"enum": list(Status)},
        "previousStatus": {"enum": list(Status)},
        "message": {"type": "string"},
        **REVOKED,
    },
    optional=("applied", "status", "previousStatus", "message", *REVOKED),
)
SERIES = list_of(COUNT)
LINKS = object_of({"links": {"type": "object", "additionalProperties": {"type": "string"}}})
ACT = object_of({**SESSION_MEMBERS, "applied": APPLIED, **REVOKED}, optional=tuple(REVOKED))
_NEXT: Json = {
    "type": ["string", "null"],
    "description": "`after` of the next call",
}
RESULTS = object_of({"results": list_of(RESULT), "next": _NEXT}, optional=["next"])
A_SESSION: Json = {"$ref": "#/components/schemas/Session"}
EVENTS: Json = list_of({"$ref": "#/components/schemas/Event"})
USER = object_of(
    {
        "session": nullable(A_SESSION),
        **RULES,
        "events": EVENTS,
        "eventsReachBackTo": TIME,
        "eventsNext": {
            "type": ["string", "null"],
            "description": "`events` of the next page, also of an empty page; null: this is the last",
        },
    },
    optional=["note"],
)
SCHEMAS: dict[str, Json] = {"Session": SESSION, "Act": ACT, "Results": RESULTS, "User": USER}
A_USER: Json = {"$ref": "#/components/schemas/User"}
MANY_RESULTS: Json = {"$ref": "#/components/schemas/Results"}
AN_ACT: Json = {"$ref": "#/components/schemas/Act"}

_BY: Json = {"type": ["string", "null"]}
_WEBHOOK: Json = {
    "webhook": {"type": "string"},
    "state": {"enum": ["new", "active", "failing", "paused", "disabled"]},
    "lastEvent": {"type": ["string", "null"]},
    "failedAttempts": COUNT,
    "error": {"type": "string", "description": "what failed in the last attempt"},
    "paused": nullable(
        object_of(
            {
                "by": {**_BY, "description": "null: the receiver answered 410"},
                "reason": {"type": "string"},
                "at": MOMENT,
            }
        )
    ),
}
_MESSAGE: Json = {
    "id": {"type": "string"},
    "message": {"type": "object", "description": "the body, as the receiver gets it"},
}
_SET_ASIDE: Json = {
    **_MESSAGE,
    "at": MOMENT,
    "cause": {"enum": ["skipped", "gave_up"]},
    "by": _BY,
    "reason": {"type": "string"},
    "error": {"type": "string"},
}
WEBHOOK = object_of(_WEBHOOK)
ONE_WEBHOOK = object_of(
    {
        **_WEBHOOK,
        "waiting": nullable(object_of({**_MESSAGE, "failedSince": TIME, "nextAttempt": TIME})),
        "setAside": list_of(object_of(_SET_ASIDE)),
    }
)
ORDERED = object_of({"success": {"const": True}, "applied": APPLIED})
SKIPPED = object_of({"success": {"const": True}, "applied": APPLIED, "id": {"type": "string"}})
LIMIT_STATE: Json = {"limit": {"type": "string"}, "requests": COUNT, "window": COUNT, "used": COUNT}
LISTED_LIMIT = object_of(
    {
        "limit": {"type": "string"},
        "per": {"enum": ["ip", "user", "tenant"]},
        "shadow": {"type": "boolean"},
        "requests": COUNT,
        "window": COUNT,
        "configured": LIMIT,
    }
)
ACTIVITY: Json = {
    "bucketSeconds": COUNT,
    "until": MOMENT,
    "transitions": SERIES,
    "refusals": SERIES,
    "shadowRefusals": SERIES,
    "addresses": list_of(object_of({"address": {"type": "string"}, "refusals": COUNT})),
    "shadowLimits": list_of(object_of({"limit": {"type": "string"}, "refusals": COUNT})),
}
SESSIONS_PAGE = object_of(
    {
        "sessions": list_of(A_SESSION),
        "next": {
            "type": ["string", "null"],
            "description": "`after` of the next page, also of an empty page; null: this is the last",
        },
        "examined": {
            "type": ["integer", "null"],
            "description": "about how many users this page searched for the prefix",
        },
    }
)
