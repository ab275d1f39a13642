"""Tenants as configured: their terms, limits and keys, found by the digest of their token."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from service.core.admission import Terms
from service.core.limits import Limit
from service.core.routing.routes import Protected, with_capabilities
from service.core.tokens.verification import Verifier

WITHOUT_A_TENANT = ("admin", "login")
"""Operations of operators, which are counted for no tenant."""
MOST_TERMS = 1000
"""The most terms that are cached for capabilities which the code names."""


class TermsByOperation(dict[str, Terms]):
    """Operation → the terms on which it is admitted, each made when it is first asked for.

    Of ten thousand tenants most are quiet at any time, and terms take longer to make than all else of a tenant.
    """

    def __init__(
        self, limits: Mapping[str, tuple[Limit, ...]], make: Callable[[str, tuple[Limit, ...]], Terms]
    ) -> None:
        super().__init__()
        self.limits = limits
        """Operation → the limits of its terms."""
        self._make = make

    def __missing__(self, operation: str) -> Terms:
        made = self[operation] = self._make(operation, self.limits[operation])
        return made


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the deployment, as configured."""

    name: str
    token_digest: bytes
    ring: Verifier
    terms: TermsByOperation
    routes: Protected | None = None
    """The routes for proxied requests; None: none are configured."""
    restricted: Collection[str] = ()
    """The capabilities that the configuration restricts the tenant from."""
    webhooks: tuple[str, ...] = ()
    """The names of its webhooks."""
    _with: dict[tuple[Terms, str], Terms] = field(default_factory=dict, repr=False)

    @property
    def limits(self) -> dict[str, Limit]:
        """All limits that count its requests, by name."""
        own = [limits for operation, limits in self.terms.limits.items() if operation not in WITHOUT_A_TENANT]
        found = {limit.name: limit for limits in own for limit in limits}
        return found | {limit.name: limit for limit in self.routes.limits} if self.routes else found

    @property
    def capabilities(self) -> frozenset[str]:
        """All capabilities that its operations and routes need. An application with the middleware may name more."""
        operations = self.terms.limits.keys() - set(WITHOUT_A_TENANT)
        return frozenset(operations) | (self.routes.capabilities if self.routes else frozenset())

    def terms_with(self, terms: Terms, capability: str) -> Terms:
        """Return `terms` with one more capability; cached, so only for capabilities that the code names."""
        made = self._with.get((terms, capability))
        if made is None:
            if len(self._with) >= MOST_TERMS:  # terms of a path that is read in several ways are made for each request
                self._with.clear()
            needed = (*terms.capabilities, capability)
            made = self._with[terms, capability] = with_capabilities(terms, needed, self.restricted)
        return made


class Directory:
    """All tenants of one configuration, and the terms and routes for requests that name none."""

    def __init__(self, tenants: Iterable[Tenant], terms: TermsByOperation, routes: Protected | None = None) -> None:
        self.tenants = {tenant.name: tenant for tenant in tenants}
        self.terms = terms
        self.routes = routes
        self._by_digest = {tenant.token_digest: tenant for tenant in self.tenants.values()}
        self._known: dict[str, Tenant] = {}

    def windows_s(self) -> dict[tuple[str | None, str], int]:
        """(Tenant, limit) → its window in seconds, for all limits; None: requests without a tenant."""
        found: dict[tuple[str | None, str], int] = {}
        limits: dict[str | None, Iterable[Limit]] = {name: one.limits.values() for name, one in self.tenants.items()}
        limits[None] = [limit for held in self.terms.limits.values() for limit in held]
        limits[None] = [*limits[None], *(self.routes.limits if self.routes else ())]
        for tenant, held in limits.items():
            found |= {(tenant, limit.name): limit.window_s for limit in held}
        return found

    def find(self, token: str) -> Tenant | None:
        """Return the tenant that `token` belongs to.

        The look-up is by SHA-256, so its timing reveals nothing about a token that is nearly right. So is the second
        one of the same token by Python's own hash of it, which is keyed with a secret of the process.
        """
        tenant = self._known.get(token)
        if tenant is None:
            tenant = self._by_digest.get(digest(token))
            if tenant is not None:
                self._known[token] = tenant
        return tenant


def digest(token: str) -> bytes:
    """Return the SHA-256 of a tenant's or an operator's token."""
    # Header bytes that are not UTF-8 arrive as surrogates; they are valid input.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
