"""Typed keys and objects of the application and of a request."""

import time
from collections.abc import Awaitable, Callable, Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from aiohttp import web

from service.core.admission import Admission, Failure, OnDecided, Question, Terms
from service.core.errors import (
    BREAKER_IS_OPEN,
    KeysUnavailable,
    StoreUnavailable,
    Unauthenticated,
    UnexpectedState,
    UnknownKey,
)
from service.core.leftovers import Leftovers
from service.core.operator_actions import OperatorActions
from service.core.readiness import Readiness
from service.core.session_lists import ActivityCharts, EventFeeds, Histories, SessionLists
from service.core.sessions import OpenSession
from service.core.tenants import Tenant
from service.core.tokens.claims import Identity
from service.core.tokens.verification import VerifiedTokens, Verifier
from service.core.traffic_statistics import Refused, TrafficCounters
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
"""Answers an admitted request without waiting. On the hot path the request does not hold its context."""


@dataclass(slots=True)
class UserContext:
    """The caller of an admitted request."""

    tenant: Tenant
    identity: Identity
    admission: Admission


Original = Callable[[AnyRequest, ClientAddressRules], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Operation:
    """How a handler's requests are admitted."""

    name: str
    original: Original | None = None
    """Reads method and target of the original request; None: the request is its own (raises UnreadableRequest)."""
    check: Callable[[AbstractSet[str]], None] | None = None
    """Checks the names of repeated header fields (raises InvalidRequest)."""
    own_terms: Callable[[web.Request, Terms], Awaitable[Terms]] | None = None
    """Returns the terms of one request whose body decides. Errors in the body are raised after the admission."""
    reads: str = vary.CREDENTIALS
    """The request fields that its answers depend on."""
    refuses_prefetch: bool = False
    """Whether a `GET` that a browser sends in advance is refused without effect."""


@dataclass(frozen=True, slots=True)
class RequestServices:
    """What requests need of the rest of the service, in one place: a request looks it up once."""

    policy: LivePolicy
    verified: VerifiedTokens
    metrics: Metrics
    log_throttle: LogThrottle
    traffic: TrafficCounters
    operations: dict[object, Operation]
    """Handler → its operation. Requests of other handlers need no admission."""
    ask: Callable[[Question], Awaitable[Admission]]
    """Asks Redis for an admission; raises StoreUnavailable."""
    start: Callable[[Question, OnDecided], Admission | None]
    """The same with a callback: returns the admission if it is known at once, else None, and calls back later."""
    without_store: Callable[[Question], Admission]
    """Decides without Redis, as the configuration says."""
    refetch_keys: Callable[[UnknownKey | KeysUnavailable], Awaitable[None]]
    """Waits a moment for fresh keys of the key set that the error's request needs."""
    may_refetch_keys: Callable[[UnknownKey | KeysUnavailable], bool]
    """Whether that fetch is under way or may begin."""
    is_down: Callable[[], bool]
    """Whether the circuit breaker is open."""
    is_ready: Callable[[], Awaitable[bool]]
    readiness: Readiness
    """Reasons why the service is not ready, and warnings, for `/readyz`."""
    open_session: Callable[[Identity, Collection[str]], OpenSession]
    """Follows the session of an admitted request, which needed these capabilities, until it is closed."""

    def need_store(self) -> None:
        """Raise StoreUnavailable at once while the circuit breaker is open, without waiting for Redis."""
        if self.is_down():
            raise StoreUnavailable(BREAKER_IS_OPEN, "breaker")

    async def decide(self, question: Question) -> Admission:
        """Return the admission, also during an outage."""
        try:
            return await self.ask(question)
        except StoreUnavailable as error:
            self.count_failure(error)
            return self.without_store(question)

    def identify(self, ring: Verifier, token: str, *, last: bool = False) -> tuple[Identity | None, Failure | None]:
        """Return whose token it is, or why it is refused. `last`: the keys are not fetched again.

        Raises:
            UnknownKey, KeysUnavailable: fetching the tenant's keys may help.
        """
        try:
            return self.verified.verify(ring, token, time.time()), None
        except (UnknownKey, KeysUnavailable) as error:
            if not last and self.may_refetch_keys(error):
                raise
            return None, error
        except Unauthenticated as error:
            return None, error

    def report_address(self, problem: AddressProblem, peer: str) -> None:
        """Count a forwarded address that was not used, and have the log name the peer once a minute."""
        self.metrics.count_address_problem(problem.value)
        self.log_throttle.addresses.report(problem, peer)

    def count_failure(self, error: StoreUnavailable) -> None:
        """Count why Redis did not answer; the log has it once a second."""
        if error.kind:
            self.metrics.count_failure(error.kind)
            self.log_throttle.fail(error.kind, error.reason)


class RequestContext:
    """The state of one request that the middlewares and the handler share."""

    # Not a dataclass: there is one per request, and most attributes are seldom set.
    operation: str = "-"
    reads: str | None = None
    """The request fields that the answer depends on; None: the path decides."""
    tenant: str | None = None
    """The tenant's name, once its token is known."""
    customer: Tenant | None = None
    """The tenant, as configured when the request came."""
    operator: str | None = None
    """The operator's name."""
    changed: bool = False
    """Whether the request is an operator's change, which the log always has."""
    client: str | None = None
    """The client's address as limits count it; None: not computed yet."""
    capability: str | None = None
    """One more capability that a handler of an aiohttp application needs."""
    original: tuple[str, str] | None = None
    """Method and target of the original request of verify."""
    admission: Admission | None = None
    identity: Identity | None = None
    """The identity, once the request is admitted."""
    open_session: OpenSession | None = None
    """The session as an aiohttp application follows it; None: nobody waits for its end."""
    handled: bool = False
    """Whether the handler of an aiohttp application has returned."""

    def __init__(self, services: RequestServices, request_id: str) -> None:
        self.services = services
        self.request_id = request_id
        self.began = time.perf_counter()

    @property
    def context(self) -> UserContext | None:
        """The caller. None before the request is admitted, and on an open route."""
        if self.identity is None or self.customer is None or self.admission is None:
            return None
        return UserContext(self.customer, self.identity, self.admission)

    def capabilities(self) -> tuple[str, ...]:
        """Return the capabilities that the admitted request needed, the operation's own name among them."""
        if self.customer is None:
            return ()
        terms = self.customer.terms[self.operation]
        if self.customer.routes is not None and self.original is not None:
            terms = self.customer.routes.terms(*self.original)
        return terms.capabilities if self.capability is None else (*terms.capabilities, self.capability)

    def count_traffic(self, admission: Admission, status: int, code: str) -> None:
        """Count transitions, refusals and shadow refusals for the charts."""
        traffic, tenant = self.services.traffic, self.tenant or ""
        if admission.came_from is not None:
            traffic.transition(tenant)
        if code and status < 500:
            traffic.refusal(tenant, Refused(code, self.operation, self.client or ""))
        for limit_state in admission.limit_states:
            if limit_state.over and limit_state.limit.shadow:
                traffic.shadow(tenant, limit_state.limit.name)

    def admitted(self) -> tuple[Identity, Admission]:
        """Return the identity and the admission.

        Raises:
            UnexpectedState: the request was not admitted: the authentication middleware did not see it.
        """
        if self.identity is None or self.admission is None:
            raise UnexpectedState("Missing user context")
        return self.identity, self.admission


BASE_PATH = web.AppKey("BASE_PATH", str)
"""The prefix under which a proxy serves the dashboard; empty: none."""
REQUEST_SERVICES = web.AppKey("REQUEST_SERVICES", RequestServices)
SESSIONS: web.AppKey[SessionLists] = web.AppKey("SESSIONS")
TRAFFIC_STATISTICS: web.AppKey[ActivityCharts] = web.AppKey("TRAFFIC_STATISTICS")
WEBHOOK_STATES: web.AppKey[WebhookStates] = web.AppKey("WEBHOOK_STATES")
EVENT_FEEDS: web.AppKey[EventFeeds] = web.AppKey("EVENT_FEEDS")
OPERATOR_ACTIONS: web.AppKey[OperatorActions] = web.AppKey("OPERATOR_ACTIONS")
LEFTOVERS: web.AppKey[Leftovers] = web.AppKey("LEFTOVERS")
HISTORIES: web.AppKey[Histories] = web.AppKey("HISTORIES")

REQUEST_CONTEXT = web.RequestKey("REQUEST_CONTEXT", RequestContext)
