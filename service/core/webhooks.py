"""Webhooks: what is configured, how it goes, and how a message is signed.

Source: Standard Webhooks (standardwebhooks.com), version 1: symmetric signatures.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MAX_AHEAD_S = 60
"""How far a message's timestamp may follow an event ahead of the service's clock: receivers forgive 5 minutes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of one tenant's events."""

    tenant: str
    name: str
    url: str = field(repr=False)
    key: bytes = field(repr=False)
    types: frozenset[str]
    """Of the events that it wants."""


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How far a webhook has been told, and how it goes."""

    cursor: str | None
    """The last event that arrived; None: it has not begun."""
    attempts: int
    """That failed in a row, for the next event."""
    error: str
    """What the last of them came to."""


class WebhookStates(Protocol):
    """Reads how webhooks go. Raises StoreUnavailable where Redis does not answer."""

    async def state(self, tenant: str, webhook: str) -> WebhookState:
        """Of one."""


class WebhookLedger(WebhookStates, Protocol):
    """Keeps how webhooks go, and which worker tells each. Raises StoreUnavailable where Redis does not answer."""

    async def hold(self, tenant: str, webhook: str) -> bool:
        """Take or keep the lease; whoever dies loses it after a while."""

    async def release(self, tenant: str, webhook: str) -> None:
        """Give the lease up."""

    async def begin(self, tenant: str, webhook: str) -> str:
        """Where a new webhook begins: behind what has happened so far."""

    async def delivered(self, tenant: str, webhook: str, cursor: str) -> None:
        """All up to this event has arrived."""

    async def failed(self, tenant: str, webhook: str, attempts: int, error: str) -> None:
        """An attempt did not arrive."""


def key_of(secret: str) -> bytes:
    """The signing key: what stands behind `whsec_` in base64, else the text itself.

    Raises:
        ValueError: it is too short, or no base64.
    """
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise ValueError("behind whsec_ there is base64") from None
    else:
        key = secret.encode()
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"a webhook's secret must have at least {MIN_SECRET_BYTES} bytes")
    return key


def sent_at_s(now_s: float, event_ms: int) -> int:
    """Return the timestamp to sign a message with, in whole seconds: no message is sent before its event happened.

    It is the service's time, or that of the event where Redis's clock is somewhat ahead.

    Args:
        now_s: seconds since the epoch, by the service's clock.
        event_ms: when the event happened, by Redis's clock; 0: not known.
    """
    event_s = event_ms // 1000
    return event_s if now_s < event_s <= now_s + MAX_AHEAD_S else int(now_s)


def signed(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> Mapping[str, str]:
    """The header fields that a message carries."""
    content = f"{message_id}.{timestamp_s}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }
