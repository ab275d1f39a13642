"""The admission of a request: the question to Redis, the decision, and the error that follows from it.

`judge` checks in the order that docs/reference/http-api.md documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.core.errors import (
    Forbidden,
    InvalidRequest,
    InvalidUserToken,
    KeysUnavailable,
    RestrictedCapability,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnreadableRequest,
    UserSuspended,
    UserTerminated,
)
from service.core.limits import Charge, Limit, LimitState, LocalWindows, OnOutage, Per
from service.core.sessions import Cause, Session, Status
from service.core.text.timestamps import timestamp
from service.core.tokens.claims import Identity

CAPABILITY = r"^[A-Za-z0-9._:-]{1,64}$"
"""The pattern of a capability's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What applies to all requests of a tenant for one operation. Made once, and compared by identity."""

    tenant: str | None
    """None: no tenant is known, and only limits apply."""
    operation: str
    limits: tuple[Limit, ...] = ()
    capabilities: tuple[str, ...] = ()
    """The capabilities that a request needs, the operation's own name among them."""
    restricted: str | None = None
    """The capability of these that the configuration already restricts."""
    cause: Cause = Cause.REQUEST
    passive: bool = False
    """No request changes the status or the time it was last seen, whether or not it says `x-passive: true`."""
    reason: str = ""
    """The reason of the change, if the request gives one; the terms are then of that request only."""
    open: bool = False
    """Requests need no credentials, and none are checked."""
    forbidden: bool = False
    """No rule admits the request, whoever the user is."""
    shape: tuple[object, ...] = field(init=False, repr=False)
    """What requests of one batch have in common: everything but the capabilities."""
    counts_users: bool = field(init=False, repr=False)
    """Whether a limit is per user."""
    knows_users: bool = field(init=False, repr=False)
    """The terms are for requests whose user is known."""
    anonymous: "Terms" = field(init=False, repr=False)
    """The same for a request whose user is not known: limits per user are skipped."""

    def __post_init__(self) -> None:
        known = tuple(limit for limit in self.limits if limit.per is not Per.USER)
        counts_users = len(known) < len(self.limits)
        knows_users = counts_users or bool(self.capabilities)
        anonymous = Terms(self.tenant, self.operation, known, cause=self.cause) if knows_users else self
        made = {
            "counts_users": counts_users,
            "knows_users": knows_users,
            "shape": (self.limits, self.cause, self.reason, knows_users),
            "anonymous": anonymous,
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)


Failure = Unauthenticated | UnreadableRequest | InvalidRequest | KeysUnavailable
"""The errors that apply if no limit refuses the request."""


@dataclass(slots=True)  # not frozen, which is several times slower to make, and there is one per request
class Question:
    """Everything that Redis needs to decide a request in one round trip."""

    terms: Terms
    client: str
    """The client's address as limits count it."""
    request_id: str
    user: Identity | None = None
    passive: bool = False
    failure: Failure | None = None
    """Why the credentials or the request are refused, unless a limit refuses first."""

    @property
    def needs_store(self) -> bool:
        """Whether Redis has to be asked: without a user and without limits it does not."""
        return self.user is not None or bool(self.terms.limits)

    def subject(self, limit: Limit) -> str:
        """Return the subject that `limit` charges for this request."""
        if limit.per is Per.IP:
            return self.client
        return self.user.user if limit.per is Per.USER and self.user is not None else "-"


@dataclass(slots=True)
class Admission:
    """The decision about a request."""

    limit_states: Sequence[LimitState] = ()
    session: Session | None = None
    """The session after this request; None: the request has no user, or Redis was away."""
    came_from: Status | None = None
    """The status before, if this request made a transition."""
    restricted: str | None = None
    """The capability that this tenant or user is restricted from."""
    may_be_full: bool = True
    """False: every limit has room left, shadow limits included, so that `limit_states` need not be read."""
    revoked: bool = False
    """The token is revoked: it was issued up to the moment that an operator has set."""
    accepted_from_s: int | None = None
    """Tokens issued from this second on are accepted. Set if the revoked token was issued within the clock skew after
    the revocation: it may come from a new login."""
    revoked_ahead: bool = False
    """The revocation lies ahead of Redis's clock: a clock was ahead when it was set."""
    degraded: tuple[str, ...] = ()
    """What was decided without Redis: `limits`, `sessions`."""
    unavailable: str | None = None
    """The one of these that may not be decided without Redis."""
    remembered: bool = False
    """The same limit refused the subject a moment ago; the log counts it instead of writing a line."""

    @property
    def refused(self) -> bool:
        """Whether a limit refuses the request."""
        if self.may_be_full:
            for limit_state in self.limit_states:
                if limit_state.refuses:
                    return True
        return False

    @property
    def is_remarkable(self) -> bool:
        """Whether there is more to report than that the request was admitted."""
        over = self.may_be_full and any(limit_state.over for limit_state in self.limit_states)
        return over or self.came_from is not None or bool(self.degraded)

    @property
    def retry_after_s(self) -> int:
        """Return the longest wait of the limits that refuse, in whole seconds, at least one."""
        return max([s.reset_s for s in self.limit_states if s.refuses], default=1) or 1


NOTHING_ASKED = Admission()

Decided = Admission | StoreUnavailable
"""The decision, or why there is none."""
OnDecided = Callable[[Decided], None]
"""A callback that receives it."""


def judge(question: Question, admission: Admission) -> None:
    """Return if the request is admitted; otherwise raise the first error in the documented order of checks.

    Raises:
        TooManyRequests: a limit refuses; this has priority over everything below.
        StoreUnavailable: Redis was away, and the request may not be decided without it.
        Unauthenticated: the credentials are missing or wrong.
        KeysUnavailable: there is no key set to check the token with.
        UnreadableRequest: the original request of verify cannot be read.
        InvalidRequest: a field has a wrong value, or is repeated.
        Denied: the user is suspended, terminated or restricted, or no rule admits the request.
    """
    if admission.refused:
        raise TooManyRequests(admission.retry_after_s)
    if admission.unavailable == "limits":
        raise StoreUnavailable("limits")
    if question.failure is not None:
        raise question.failure
    if admission.revoked:
        raise InvalidUserToken(_why_revoked(question, admission))
    if admission.unavailable == "sessions":
        raise StoreUnavailable("sessions")
    # A user who ends its own account is suspended or terminated by this request, and was not before.
    if admission.session is not None and admission.came_from is None:
        if admission.session.status is Status.SUSPENDED:
            raise UserSuspended
        if admission.session.status is Status.TERMINATED:
            raise UserTerminated
    if admission.restricted is not None:
        raise RestrictedCapability(admission.restricted)
    if question.terms.forbidden:
        raise Forbidden


def _why_revoked(question: Question, admission: Admission) -> str:
    if question.user is not None and question.user.issued_s is None:
        return "revoked; without iat: refused until the revocation is lifted"
    if admission.accepted_from_s is None:
        return "revoked"
    accepted_from = timestamp(admission.accepted_from_s * 1000)
    if admission.revoked_ahead:
        return (
            f"revoked; the revocation lies ahead of the clock, so that logins are refused until {accepted_from}: "
            "lift it if a clock was ahead when it was set"
        )
    return (
        f"revoked; issued within the clock skew after a revocation: tokens issued from {accepted_from} on are accepted"
    )


@dataclass(slots=True)
class OutagePolicy:
    """Decides while Redis is away: each limit by its `on_outage`, sessions by `sessions.on_outage`."""

    allow_sessions: bool
    clock_us: Callable[[], int]
    held: Callable[[str | None, Limit], Limit] = lambda tenant, limit: limit
    """A tenant's limit → the limit that an operator has set in its place, as last read from Redis."""
    windows: LocalWindows = field(default_factory=LocalWindows)

    def decide(self, question: Question) -> Admission:
        """Decide `question` without Redis. A logout and the end of an account must be recorded, so they are refused."""
        terms = question.terms
        local = [
            (terms.tenant or "", Charge(self.held(terms.tenant, limit), question.subject(limit)))
            for limit in terms.limits
            if limit.on_outage is OnOutage.LOCAL
        ]
        denies = any(limit.on_outage is OnOutage.DENY and not limit.shadow for limit in terms.limits)
        # A request that is refused because Redis is away uses no quota.
        limit_states = () if denies else tuple(self.windows.decide(local, self.clock_us()))
        sessions_denied = question.user is not None and (not self.allow_sessions or terms.cause is not Cause.REQUEST)
        degraded = ("limits",) * bool(terms.limits) + ("sessions",) * (question.user is not None)
        return Admission(
            limit_states=limit_states,
            restricted=terms.restricted,
            degraded=degraded,
            unavailable="limits" if denies else "sessions" if sessions_denied else None,
        )
