"""The typed keys of the application and of a request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from service.core.admission import Admission, Operation, Question
from service.core.errors import UnexpectedState
from service.core.listing import Histories, SessionLists
from service.core.tenants import Tenant
from service.core.tokens import Identity, VerifiedTokens
from service.web.metrics import Metrics
from service.web.policy import LivePolicy


@dataclass(frozen=True, slots=True)
class UserContext:
    """Who asks, once admitted."""

    tenant: Tenant
    identity: Identity
    admission: Admission


@dataclass(frozen=True, slots=True)
class Gate:
    """What requests ask of the rest of the service."""

    decide: Callable[[Question], Awaitable[Admission]]
    """The one admission, outages included."""
    refetch_keys: Callable[[str], Awaitable[None]]
    """Waits a moment for fresh keys of a tenant that has a JWKS URL."""
    is_down: Callable[[], bool]
    """Whether the circuit breaker is open: whoever would wait for Redis is told at once."""
    is_ready: Callable[[], Awaitable[bool]]


POLICY = web.AppKey("POLICY", LivePolicy)
VERIFIED = web.AppKey("VERIFIED", VerifiedTokens)
METRICS = web.AppKey("METRICS", Metrics)
GATE = web.AppKey("GATE", Gate)
SESSIONS: web.AppKey[SessionLists] = web.AppKey("SESSIONS")
HISTORIES: web.AppKey[Histories] = web.AppKey("HISTORIES")
OPERATIONS: web.AppKey[dict[object, Operation]] = web.AppKey("OPERATIONS")
"""Handler → what it does; handlers that are not in it stand outside the admission."""

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
CLIENT = web.RequestKey("CLIENT", str)
ADMISSION = web.RequestKey("ADMISSION", Admission)
USER_CONTEXT = web.RequestKey("USER_CONTEXT", UserContext)


def user_context(request: web.Request) -> UserContext:
    """Who asks.

    Raises:
        UnexpectedState: the authentication middleware did not see this request.
    """
    if USER_CONTEXT not in request:
        raise UnexpectedState("Missing user context")
    return request[USER_CONTEXT]
