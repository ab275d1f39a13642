"""What the application and a request carry with them, typed."""

import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from aiohttp import web

from service.core.admission import Admission, OnDecided, Question, Terms
from service.core.errors import BREAKER_IS_OPEN, KeysUnavailable, StoreUnavailable, UnexpectedState, UnknownKey
from service.core.operator_actions import OperatorActions
from service.core.readiness import Readiness
from service.core.session_lists import ActivityCharts, EventFeeds, Histories, SessionLists
from service.core.tenants import Tenant
from service.core.tokens.claims import Identity
from service.core.tokens.verification import VerifiedTokens
from service.core.traffic_statistics import TrafficCounters
from service.core.webhooks import WebhookStates
from service.web.api import vary
from service.web.api.client_address import AddressProblem, ClientAddressRules
from service.web.monitoring.log_throttling import LogThrottle
from service.web.monitoring.metrics import Metrics
from service.web.policy import LivePolicy
from service.web.server.request_head import AnyRequest
from service.web.server.responses import ApiResponse

AsyncHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Responder = Callable[[AnyRequest, "RequestContext"], ApiResponse]
"""Answers what is admitted, without waiting for anything. On the hot path the request does not hold its context."""


@dataclass(slots=True)
class UserContext:
    """Who asks, once admitted."""

    tenant: Tenant
    identity: Identity
    admission: Admission


Original = Callable[[AnyRequest, ClientAddressRules], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler is to the admission."""

    name: str
    original: Original | None = None
    """Method and target of the request that this one asks about, where it is another's (UnreadableRequest: untold)."""
    check: Callable[[AbstractSet[str]], None] | None = None
    """Checks the names of repeated header fields (InvalidRequest: one of them describes another's request)."""
    own_terms: Callable[[web.Request, Terms], Awaitable[Terms]] | None = None
    """The terms of one request, where its body decides; what is wrong with that is raised once it is admitted."""
    reads: str = vary.CREDENTIALS
    """The request fields that its answers depend on."""
    refuses_prefetch: bool = False
    """Whether a `GET` that a browser sends in advance is refused without effect."""


@dataclass(frozen=True, slots=True)
class RequestServices:
    """What requests ask of the rest of the service, in one place: a request looks it up once."""

    policy: LivePolicy
    verified: VerifiedTokens
    metrics: Metrics
    log_throttle: LogThrottle
    traffic: TrafficCounters
    operations: dict[object, Operation]
    """Handlers that are not in it stand outside the admission."""
    ask: Callable[[Question], Awaitable[Admission]]
    """Redis (StoreUnavailable: it is away)."""
    start: Callable[[Question, OnDecided], Admission | None]
    """The same for who does not wait: what is known at once, or nothing, and then it is told."""
    without_store: Callable[[Question], Admission]
    """What the configuration says of outages."""
    refetch_keys: Callable[[UnknownKey | KeysUnavailable], Awaitable[None]]
    """Waits a moment for fresh keys of the key set that the error's request needs."""
    may_refetch_keys: Callable[[UnknownKey | KeysUnavailable], bool]
    """Whether that fetch is under way or may begin."""
    is_down: Callable[[], bool]
    """Whether the circuit breaker is open."""
    is_ready: Callable[[], Awaitable[bool]]
    readiness: Readiness
    """Reasons why the service is not ready, and warnings, for `/readyz`."""

    def need_store(self) -> None:
        """Raise StoreUnavailable at once while the circuit breaker is open: nobody is let to wait for Redis."""
        if self.is_down():
            raise StoreUnavailable(BREAKER_IS_OPEN, "breaker")

    async def decide(self, question: Question) -> Admission:
        """The one admission, outages included."""
        try:
            return await self.ask(question)
        except StoreUnavailable as error:
            self.count_failure(error)
            return self.without_store(question)

    def report_address(self, problem: AddressProblem, peer: str) -> None:
        """Count a forwarded address that was not used, and have the log name the peer once a minute."""
        self.metrics.count_address_problem(problem.value)
        self.log_throttle.addresses.report(problem, peer)

    def count_failure(self, error: StoreUnavailable) -> None:
        """Count why Redis did not answer, and have the log tell it once a second."""
        if error.kind:
            self.metrics.count_failure(error.kind)
            self.log_throttle.fail(error.kind, error.reason)


class RequestContext:
    """One request on its way: what the middlewares and the handler tell each other of it."""

    # No dataclass: there is one per request, and most of this is seldom set.
    operation: str = "-"
    reads: str | None = None
    """The request fields that the answer depends on; None: the path decides."""
    tenant: str | None = None
    """Whose request it is, once its token said so."""
    customer: Tenant | None = None
    """The same, as configured when it came."""
    operator: str | None = None
    """Who of the operators asks."""
    changed: bool = False
    """An operator's act: the log tells each."""
    client: str | None = None
    """The client's address as limits count it, once somebody asked."""
    capability: str | None = None
    """One more capability that the request needs, where a handler of an aiohttp application names it."""
    original: tuple[str, str] | None = None
    """Method and target of the request that a proxy asks about."""
    admission: Admission | None = None
    identity: Identity | None = None
    """Who asks, once admitted."""

    def __init__(self, services: RequestServices, request_id: str) -> None:
        self.services = services
        self.request_id = request_id
        self.began = time.perf_counter()

    @property
    def context(self) -> UserContext | None:
        """Who asks. None before the request is admitted, and where an open route let it in."""
        if self.identity is None or self.customer is None or self.admission is None:
            return None
        return UserContext(self.customer, self.identity, self.admission)

    def admitted(self) -> tuple[Identity, Admission]:
        """Who asks, and what was decided.

        Raises:
            UnexpectedState: the request was not admitted: the authentication middleware did not see it.
        """
        if self.identity is None or self.admission is None:
            raise UnexpectedState("Missing user context")
        return self.identity, self.admission


REQUEST_SERVICES = web.AppKey("REQUEST_SERVICES", RequestServices)
SESSIONS: web.AppKey[SessionLists] = web.AppKey("SESSIONS")
TRAFFIC_STATISTICS: web.AppKey[ActivityCharts] = web.AppKey("TRAFFIC_STATISTICS")
WEBHOOK_STATES: web.AppKey[WebhookStates] = web.AppKey("WEBHOOK_STATES")
EVENT_FEEDS: web.AppKey[EventFeeds] = web.AppKey("EVENT_FEEDS")
OPERATOR_ACTIONS: web.AppKey[OperatorActions] = web.AppKey("OPERATOR_ACTIONS")
HISTORIES: web.AppKey[Histories] = web.AppKey("HISTORIES")

REQUEST_CONTEXT = web.RequestKey("REQUEST_CONTEXT", RequestContext)
