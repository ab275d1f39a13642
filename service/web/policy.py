"""What of the configuration a request is judged by; replaced whole when the configuration is reloaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.core.tenants import Directory
from service.web.api.client_address import ClientAddressRules


@dataclass(frozen=True, slots=True)
class Operator:
    """Someone who may look at or change sessions."""

    name: str
    token_digest: bytes
    may_change: bool
    tenants: frozenset[str]
    """`*` stands for all."""

    def sees(self, tenant: str) -> bool:
        """Whether `tenant` is one of this operator's."""
        return "*" in self.tenants or tenant in self.tenants


@dataclass(frozen=True, slots=True)
class Policy:
    """One configuration, ready to judge by."""

    directory: Directory
    client_address: ClientAddressRules
    operators: Sequence[Operator]
    cookie_key: bytes
    """Signs the dashboard's cookies: derived from the operators' tokens, so it changes with them."""
    cors_origins: frozenset[str]
    cors_headers: tuple[str, ...]
    """Request fields that a page may send, in lower case; `*` stands for all."""
    access_log: str
    metrics_token_digest: bytes | None
    secrets: frozenset[bytes]
    """The digests of all tokens that are configured: what is not told, wherever it was sent."""


class LivePolicy:
    """The policy that holds now."""

    def __init__(self, policy: Policy) -> None:
        self.current = policy
