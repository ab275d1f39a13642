"""Webhooks: what is configured, how it goes, and how a message is signed.

Source: Standard Webhooks (standardwebhooks.com), version 1: symmetric signatures.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MOST_SECRETS = 8
"""Of one webhook: each adds a signature to every message."""
MAX_AHEAD_S = 60
"""How far a message's timestamp may follow an event ahead of the service's clock: receivers forgive 5 minutes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of one tenant's events."""

    tenant: str
    name: str
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    """Each message is signed with all of them, in this order."""
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
    """Return the signing key: what `whsec_` precedes is base64, any other text is the key itself.

    Raises:
        ValueError: the secret is too short, is a key of another kind, or resembles `whsec_…` without being it, so that
            the receiver's library would read another key from it. The message names what to write.
    """
    if not secret.startswith(PREFIX):
        _refuse_what_resembles(secret)
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):  # ValueError: characters outside ASCII
            raise ValueError("what follows whsec_ must be base64 (A-Z, a-z, 0-9, +, / and = at the end)") from None
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"a webhook's secret must have at least {MIN_SECRET_BYTES} bytes")
    return key


_RESEMBLES = re.compile(
    r"(?P<before>[^A-Za-z0-9]*)(?P<version>v\d+\w*,\s*)?(?P<prefix>wh(?:sec|sk|pk))[_-]", re.IGNORECASE
)


def _refuse_what_resembles(secret: str) -> None:
    found = _RESEMBLES.match(secret)
    if found is None:
        return
    if found["prefix"].lower() != "whsec":
        kind = "private" if found["prefix"].lower() == "whsk" else "public"
        raise ValueError(
            f"{found['prefix']}_ marks the {kind} key of an asymmetric signature; the service signs with a shared "
            "secret, which begins with whsec_"
        )
    if found["version"]:
        raise ValueError(
            f"the {found['version'].strip().removesuffix(',')}, before whsec_ belongs to a signature: "
            "write the secret from whsec_ on"
        )
    if found["before"]:
        raise ValueError("nothing may precede whsec_: write the secret without white space or quotes")
    raise ValueError("the prefix of a secret is whsec_, in lower case and with an underscore")


def sent_at_s(now_s: float, event_ms: int) -> int:
    """Return the timestamp to sign a message with, in whole seconds: no message is sent before its event happened.

    It is the service's time, or that of the event where Redis's clock is somewhat ahead.

    Args:
        now_s: seconds since the epoch, by the service's clock.
        event_ms: when the event happened, by Redis's clock; 0: not known.
    """
    event_s = event_ms // 1000
    return event_s if now_s < event_s <= now_s + MAX_AHEAD_S else int(now_s)


def signed(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> Mapping[str, str]:
    """Return the header fields of a message: one signature for each key, separated by a space.

    A receiver accepts a message if any signature is valid, so during a rotation it may know the old secret or the new.
    """
    content = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
