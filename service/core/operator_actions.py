"""Actions of operators and their results: types, and the protocol of the store that performs them.

The protocol lets `web` offer what `store` does without either knowing the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.core.clocks import FORGIVEN_SKEW_S
from service.core.limits import Limit, LimitState
from service.core.sessions import Cause, Refusal, Session, Status


@dataclass(frozen=True, slots=True)
class Author:
    """The author and the reason of a change, which its event shows."""

    by: str
    client: str = ""
    """The client's address."""
    request_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action on one user."""

    user: str
    came_from: Status
    """The status before; also NONE if the record cannot be read."""
    outcome: Status | Refusal
    session: Session | None
    revoked_before_s: int | None = None
    """Tokens issued up to this second are refused, after a logout everywhere."""
    revokes: bool = False
    """The action moved that second forward."""
    clocks_apart_s: int = 0
    """By how many seconds the clocks of the service and of Redis differed, after a logout everywhere."""

    @property
    def applied(self) -> bool:
        """Whether the action changed anything."""
        return self.revokes or (isinstance(self.outcome, Status) and self.outcome is not self.came_from)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The result of a revocation."""

    before_s: int
    """Tokens issued up to this second are refused now."""
    applied: bool
    """False: this or a later second was set already."""
    clocks_apart_s: int = 0
    """By how many seconds the clocks of the service and of Redis differed; 0 for an explicit moment."""


@dataclass(frozen=True, slots=True)
class Restriction:
    """The result of a restriction."""

    until_ms: int | None
    """When the restriction ends; None: when it is lifted."""
    applied: bool
    """False: this or a longer restriction was set already."""


@dataclass(frozen=True, slots=True)
class Override:
    """The result of setting a limit."""

    applied: bool
    """False: the same values were set already."""
    previous: tuple[int, int]
    """The requests and the window (seconds) before."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators have set for a tenant or a user."""

    restrictions: Mapping[str, int | None] = field(default_factory=dict)
    """Capability → until when (ms); None: until it is lifted."""
    revoked_before_s: int | None = None
    """Tokens issued up to this second are refused."""
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Limit → requests and window (seconds) in place of the configured ones."""


class OperatorActions(Protocol):
    """Performs the actions of operators.

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
        """Change the status of users as the table of transitions allows; `everywhere` also revokes their tokens.

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
        """Revoke the tokens of a user (None: the whole tenant) that were issued up to the second of a moment.

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
        """Lift a revocation. Returns whether there was one."""

    async def rules(self, tenant: str, user: str | None = None) -> Rules:
        """Return what is set for a tenant, or for one user."""

    async def limits_set(self, tenants: Iterable[str]) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return the limits that are set, as in `Rules`, of each of these tenants that has any."""

    async def peek(self, tenant: str, charges: Sequence[tuple[Limit, str]]) -> list[LimitState]:
        """Return how much subjects have used of limits, without using any."""

    async def reset_limit(self, tenant: str, limit: str, subject: str, author: Author) -> bool:
        """Restore the whole quota of a subject, on every worker. Returns whether any was used.

        Args:
            tenant: whose limit it is.
            limit: its name.
            subject: the client's address as limits count it, the user, or `-` for a limit per tenant.
            author: the operator, with the reason.
        """

    async def set_limit(self, tenant: str, limit: Limit, requests: int, window_s: int, author: Author) -> Override:
        """Set a tenant's limit in place of the configured one, `limit`. The last value applies; the event has both."""

    async def unset_limit(self, tenant: str, name: str, limit: Limit | None, author: Author) -> bool:
        """Return to the configured limit (None: no limit has that name). Returns whether another value was set."""
