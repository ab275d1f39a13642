"""The policy: the part of the configuration that decides requests. A reload replaces it as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.core.tenants import Directory
from service.web.api.client_address import ClientAddressRules


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, who may read or change sessions."""

    name: str
    token_digest: bytes
    may_change: bool
    tenants: frozenset[str]
    """Names; `*` means all."""

    def sees(self, tenant: str) -> bool:
        """Return whether the operator may see `tenant`."""
        return "*" in self.tenants or tenant in self.tenants


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one configuration."""

    directory: Directory
    client_address: ClientAddressRules
    operators: Sequence[Operator]
    cookie_key: bytes
    """Signs the dashboard's cookies. It derives from the operators' tokens, and changes with them."""
    cookie_name: str
    """Of the dashboard's cookie. Deployments on one host have different ones: browsers send cookies to every port."""
    cors_origins: frozenset[str]
    cors_headers: tuple[str, ...]
    """Request fields that a page may send, in lower case; `*` means all."""
    access_log: str
    metrics_token_digest: bytes | None
    secrets: frozenset[bytes]
    """The digests of all configured tokens, which are redacted wherever a client sends them."""


class LivePolicy:
    """Holds the current policy."""

    def __init__(self, policy: Policy) -> None:
        self.current = policy
