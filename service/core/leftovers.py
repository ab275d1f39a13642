"""What is kept of tenants that are not configured (any more), and who provides it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from service.core.sessions import Status


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is kept of one tenant that is not configured. All of it applies again if the name is given again."""

    tenant: str
    counts: Mapping[Status, int]
    """Users by status."""
    has_rules: bool
    """Restrictions, a revocation or limits are set for the tenant."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What one call of a removal did."""

    keys: int
    """How many keys it removed."""
    following: str | None
    """Where the next call continues; None: nothing is left."""


class Leftovers(Protocol):
    """Lists and removes what is kept. Every method raises StoreUnavailable where Redis does not answer."""

    async def of(self, configured: Collection[str]) -> list[Leftover]:
        """Return what is kept of tenants other than these, by name."""

    async def is_kept(self, tenant: str) -> bool:
        """Return whether anything is kept of a tenant."""

    async def remove(self, tenant: str, after: str = "") -> Removed:
        """Remove a part of what is kept of a tenant, terminated users too, in a bounded number of short steps.

        Args:
            tenant: is not configured.
            after: `following` of the call before; empty: begin. To begin again does no harm.
        """
