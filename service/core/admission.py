"""The one decision about a request: what is asked, what came back, and what to answer to it.

`judge` is the order of judgement of the contract, section 4, step by step.
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
"""What a capability may be called."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """On what terms a tenant's requests for one operation are admitted. Made once, and compared as itself."""

    tenant: str | None
    """None: no tenant is known, and only limits are asked about."""
    operation: str
    limits: tuple[Limit, ...] = ()
    capabilities: tuple[str, ...] = ()
    """What a tenant or a user may be restricted from, and this needs; the operation's own name among them."""
    restricted: str | None = None
    """The capability of these that the configuration already restricts."""
    cause: Cause = Cause.REQUEST
    reason: str = ""
    """Why, where a request says so; then the terms are its own."""
    open: bool = False
    """Needs no credentials, and looks at none."""
    forbidden: bool = False
    """No rule admits it, whoever asks."""
    shape: tuple[object, ...] = field(init=False, repr=False)
    """What requests have in common that are asked about together: all but the capabilities."""
    counts_users: bool = field(init=False, repr=False)
    """Some limit is per user."""
    knows_users: bool = field(init=False, repr=False)
    """They are for requests whose user is known."""
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
"""What is told once no limit has refused."""


@dataclass(slots=True)  # not frozen: those are made several times slower, and there is one per request
class Question:
    """Everything that Redis needs to know to decide a request, in one trip."""

    terms: Terms
    client: str
    """The client's address as limits count it."""
    request_id: str
    user: Identity | None = None
    passive: bool = False
    failure: Failure | None = None
    """Why the credentials are not good, or the request is not to be understood; told once no limit has refused."""

    @property
    def needs_store(self) -> bool:
        """Whether there is anything to ask: no user and no limit need no trip."""
        return self.user is not None or bool(self.terms.limits)

    def subject(self, limit: Limit) -> str:
        """Whom `limit` charges for this request."""
        if limit.per is Per.IP:
            return self.client
        return self.user.user if limit.per is Per.USER and self.user is not None else "-"


@dataclass(slots=True)
class Admission:
    """What was decided."""

    limit_states: Sequence[LimitState] = ()
    session: Session | None = None
    """As it stands after this request; None where no user was asked about, or Redis was not there."""
    came_from: Status | None = None
    """The status before, where this request made a transition."""
    restricted: str | None = None
    """The capability that this tenant or user is restricted from."""
    may_be_full: bool = True
    """False: every limit has room left, also those in shadow, so that the standings need not be looked at."""
    revoked: bool = False
    """An operator has refused the tokens that were issued up to a moment, and this is one."""
    accepted_from_s: int | None = None
    """Tokens issued from this second on are accepted, and this revoked one was issued in the second of the revocation
    or in those that were added to it because clocks differ: it may be that of a new login."""
    degraded: tuple[str, ...] = ()
    """What Redis was not there to decide: `limits`, `sessions`."""
    unavailable: str | None = None
    """Of these, what may not be decided without it."""
    remembered: bool = False
    """It was refused a moment ago, for the same limit; the log need not have it by itself again."""

    @property
    def refused(self) -> bool:
        """Whether a limit keeps the request out."""
        return self.may_be_full and any(limit_state.refuses for limit_state in self.limit_states)

    @property
    def is_remarkable(self) -> bool:
        """Whether it is more than one of many that were simply admitted."""
        over = self.may_be_full and any(limit_state.over for limit_state in self.limit_states)
        return over or self.came_from is not None or bool(self.degraded)

    @property
    def retry_after_s(self) -> int:
        """The longest wait among the limits that refuse, in whole seconds, at least one."""
        return max([s.reset_s for s in self.limit_states if s.refuses], default=1) or 1


NOTHING_ASKED = Admission()

Decided = Admission | StoreUnavailable
"""What was decided, or why it could not be."""
OnDecided = Callable[[Decided], None]
"""Is called with it, by who does not let wait."""


def judge(question: Question, admission: Admission) -> None:
    """Return where the request is admitted; otherwise raise what stands in its way, in the contract's order.

    Raises:
        TooManyRequests: a limit refuses; it wins over everything below.
        StoreUnavailable: Redis was away and what it was asked may not be decided without it.
        Unauthenticated: the credentials were not good.
        KeysUnavailable: there is no key set to judge them with.
        UnreadableRequest: what a proxy asked about is not to be understood.
        InvalidRequest: a field that decides something is repeated.
        Denied: the user is suspended or terminated, or restricted from what is asked, or no rule admits it.
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
    # Who ended its own account with this request is suspended or terminated by it, and was not before.
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
    return (
        f"revoked; issued within the clock skew after a revocation: tokens issued from {accepted_from} on are accepted"
    )


@dataclass(slots=True)
class OutagePolicy:
    """Decides while Redis is away: each limit by its `on_outage`, sessions by `sessions.on_outage`."""

    allow_sessions: bool
    clock_us: Callable[[], int]
    held: Callable[[str | None, Limit], Limit] = lambda tenant, limit: limit
    """A tenant's limit → what an operator had set in its place when Redis was last asked."""
    windows: LocalWindows = field(default_factory=LocalWindows)

    def decide(self, question: Question) -> Admission:
        """Answer `question` without Redis. What is to be recorded, a logout or an account's end, is refused."""
        terms = question.terms
        local = [
            (terms.tenant or "", Charge(self.held(terms.tenant, limit), question.subject(limit)))
            for limit in terms.limits
            if limit.on_outage is OnOutage.LOCAL
        ]
        denies = any(limit.on_outage is OnOutage.DENY and not limit.shadow for limit in terms.limits)
        # A request that is going to be refused for want of Redis uses up nothing.
        limit_states = () if denies else tuple(self.windows.decide(local, self.clock_us()))
        sessions_denied = question.user is not None and (not self.allow_sessions or terms.cause is not Cause.REQUEST)
        degraded = ("limits",) * bool(terms.limits) + ("sessions",) * (question.user is not None)
        return Admission(
            limit_states=limit_states,
            restricted=terms.restricted,
            degraded=degraded,
            unavailable="limits" if denies else "sessions" if sessions_denied else None,
        )
