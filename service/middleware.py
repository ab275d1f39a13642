"""The former name of `service.integrations.aiohttp`, kept for applications that import it."""

from service.integrations.aiohttp import (
    AdmittedSession,
    EndCause,
    SessionEnd,
    UserContext,
    capability,
    logout,
    session_middleware,
    session_of,
    status,
    user_of,
)

__all__ = [
    "AdmittedSession",
    "EndCause",
    "SessionEnd",
    "UserContext",
    "capability",
    "logout",
    "session_middleware",
    "session_of",
    "status",
    "user_of",
]
