"""What operators do, and what they have set: types, and who provides it.

The protocol lets `web` offer what `store` does without either knowing the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.core.limits import Limit, Standing
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
class Act:
    """What an act on one user came to."""

    user: str
    came_from: Status
    outcome: Status | Refusal
    session: Session | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators have set for a tenant or a user."""

    restrictions: Mapping[str, int | None] = field(default_factory=dict)
    """Capability → until when (ms); None: until it is lifted."""
    revoked_before_s: int | None = None
    """Tokens issued up to this second are refused."""
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Limit → requests and window (s), over the configuration's."""


class Acts(Protocol):
    """Does what operators ask.

    Every method raises StoreUnavailable where Redis does not answer; it may have been done.
    """

    async def act(
        self, tenant: str, users: Sequence[str], cause: Cause, author: Author, *, everywhere: bool = False
    ) -> list[Act]:
        """Move users where the table of transitions allows it; `everywhere` refuses their present tokens as well."""

    async def forget(self, tenant: str, user: str, author: Author) -> Status:
        """Forget a user, unless it is terminated. Returns the status before."""

    async def restrict(
        self, tenant: str, user: str | None, capability: str, author: Author, *, until_ms: int | None = None
    ) -> bool:
        """Restrict a user (None: the whole tenant), for good or until a moment. Returns whether that is new."""

    async def unrestrict(self, tenant: str, user: str | None, capability: str, author: Author) -> bool:
        """Lift a restriction. Returns whether there was one."""

    async def revoke(self, tenant: str, user: str | None, author: Author, *, before_s: int | None = None) -> int:
        """Refuse tokens issued up to a second (None: this one). Returns which."""

    async def restore(self, tenant: str, user: str | None, author: Author) -> None:
        """Refuse no token for when it was issued any more."""

    async def rules(self, tenant: str, user: str | None = None) -> Rules:
        """What is set for a tenant, or for one user."""

    async def peek(self, tenant: str, charges: Sequence[tuple[Limit, str]]) -> list[Standing]:
        """Where subjects stand within limits, as they hold, without using any up."""

    async def reset_limit(self, tenant: str, limit: str, subject: str, author: Author) -> bool:
        """Give a subject of a limit its whole quota back, on every worker. Returns whether any was used.

        Args:
            tenant: whose limit it is.
            limit: its name.
            subject: the client's address as limits count it, the user, or `-` for a limit per tenant.
            author: who asks for it.
        """

    async def set_limit(self, tenant: str, limit: str, requests: int, window_s: int, author: Author) -> bool:
        """Set a tenant's limit over the configuration's. Returns whether that changed anything."""

    async def unset_limit(self, tenant: str, limit: str, author: Author) -> bool:
        """Let the configuration's hold again. Returns whether another did."""
