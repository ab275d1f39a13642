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


class Leftovers(Protocol):
    """Lists and removes what is kept. Every method raises StoreUnavailable where Redis does not answer."""

    async def of(self, configured: Collection[str]) -> list[Leftover]:
        """Return what is kept of tenants other than these, by name."""

    async def remove(self, tenant: str) -> int:
        """Remove everything that is kept of a tenant, terminated users too. Returns how many keys."""
