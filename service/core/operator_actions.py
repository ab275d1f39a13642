"""What operators do, and what they have set: types, and who provides it.

The protocol lets `web` offer what `store` does without either knowing the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.core.clocks import FORGIVEN_SKEW_S
from service.core.limits import Limit, LimitState
from service.core.sessions import Cause, Refusal, Session, Status


@dataclass(frozen=True, slots=True)
class Author:
    """Who does it, and why: each event tells it."""

    by: str
    client: str = ""
    """The client's address."""
    request_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an act on one user came to."""

    user: str
    came_from: Status
    """NONE as well where what is kept cannot be read."""
    outcome: Status | Refusal
    session: Session | None
    revoked_before_s: int | None = None
    """With a logout everywhere: tokens issued up to this second are refused."""
    revokes: bool = False
    """The act moved that second forward."""

    @property
    def applied(self) -> bool:
        """Whether the act changed anything."""
        return self.revokes or (isinstance(self.outcome, Status) and self.outcome is not self.came_from)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a revocation came to."""

    before_s: int
    """Tokens issued up to this second are refused now."""
    applied: bool
    """False: that held already, or a later second does."""


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a restriction came to."""

    until_ms: int | None
    """Until when it holds now; None: until it is lifted."""
    applied: bool
    """False: that held already, or a longer one does."""


@dataclass(frozen=True, slots=True)
class Override:
    """What setting a limit came to."""

    applied: bool
    """False: the same was set already."""
    previous: tuple[int, int]
    """Requests and window (s) that held before."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators have set for a tenant or a user."""

    restrictions: Mapping[str, int | None] = field(default_factory=dict)
    """Capability → until when (ms); None: until it is lifted."""
    revoked_before_s: int | None = None
    """Tokens issued up to this second are refused."""
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Limit → requests and window (s), over the configuration's."""


class OperatorActions(Protocol):
    """Does what operators ask.

    Every method raises StoreUnavailable where Redis does not answer; it may have been done. An act that comes late or
    twice weakens no earlier one: a revocation only moves forward, and a restriction is not shortened, unless it is to
    `replace` what holds.
    """

    async def act(
        self,
        tenant: str,
        users: Sequence[str],
        cause: Cause,
        author: Author,
        *,
        everywhere: bool = False,
        skew_ms: int = FORGIVEN_SKEW_S * 1000,
    ) -> list[ActionResult]:
        """Move users where the table of transitions allows it; `everywhere` refuses the tokens that exist as well.

        Args:
            tenant: whose users they are.
            users: at least one.
            cause: what is done to them.
            author: who does it.
            everywhere: refuse every token that exists now, as `revoke` does.
            skew_ms: how far clocks may differ.
        """

    async def forget(self, tenant: str, user: str, author: Author) -> Status:
        """Forget a user, unless it is terminated. Returns the status before."""

    async def restrict(
        self,
        tenant: str,
        user: str | None,
        capability: str,
        author: Author,
        *,
        until_ms: int | None = None,
        replace: bool = False,
    ) -> Restriction:
        """Restrict a user (None: the whole tenant), for good or until a moment; a longer restriction stays.

        Raises:
            InvalidRequest: the moment has passed, by Redis's clock, which judges restrictions.
        """

    async def unrestrict(self, tenant: str, user: str | None, capability: str, author: Author) -> bool:
        """Lift a restriction. Returns whether there was one."""

    async def revoke(
        self,
        tenant: str,
        user: str | None,
        author: Author,
        *,
        before_ms: int | None = None,
        skew_ms: int = FORGIVEN_SKEW_S * 1000,
        replace: bool = False,
    ) -> Revocation:
        """Refuse the tokens of a user (None: the whole tenant) that were issued up to the second of a moment.

        Args:
            tenant: whose tokens they are.
            user: one user, or None.
            author: who does it.
            before_ms: the moment. None: now, for everybody: every token that exists, so those issued up to the later
                of the service's clock and Redis's, and `skew_ms` more.
            skew_ms: how far clocks may differ.
            replace: set that moment also where a later one holds.

        Raises:
            InvalidRequest: the moment is more than `skew_ms` ahead of both clocks.
        """

    async def restore(self, tenant: str, user: str | None, author: Author) -> bool:
        """Refuse no token for when it was issued any more. Returns whether any was."""

    async def rules(self, tenant: str, user: str | None = None) -> Rules:
        """What is set for a tenant, or for one user."""

    async def peek(self, tenant: str, charges: Sequence[tuple[Limit, str]]) -> list[LimitState]:
        """Where subjects stand within limits, as they hold, without using any up."""

    async def reset_limit(self, tenant: str, limit: str, subject: str, author: Author) -> bool:
        """Give a subject of a limit its whole quota back, on every worker. Returns whether any was used.

        Args:
            tenant: whose limit it is.
            limit: its name.
            subject: the client's address as limits count it, the user, or `-` for a limit per tenant.
            author: who asks for it.
        """

    async def set_limit(self, tenant: str, limit: Limit, requests: int, window_s: int, author: Author) -> Override:
        """Set a tenant's limit over the configured one, `limit`. The last one set holds; the event tells both."""

    async def unset_limit(self, tenant: str, name: str, limit: Limit | None, author: Author) -> bool:
        """Let the configured limit hold again (None: none of that name is configured). Returns whether another did."""
