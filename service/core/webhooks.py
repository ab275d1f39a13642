"""Webhooks: their configuration and state, and the signature of a message.

Source: Standard Webhooks (standardwebhooks.com), version 1: symmetric signatures.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MOST_SECRETS = 8
"""The most secrets of one webhook: each adds a signature to every message."""
MAX_AHEAD_S = 60
"""How far a message's timestamp may be ahead of the service's clock: receivers tolerate 5 minutes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of one tenant's events."""

    tenant: str
    name: str
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    """Each message is signed with all of them, in this order."""
    types: frozenset[str]
    """The types of events that it receives."""
    give_up_after_s: int | None = None
    """For how long a message is attempted before it is set aside; None: for ever."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message for a receiver. Its id is the same for all attempts."""

    id: str
    content: Mapping[str, Any]
    """`type`, `timestamp`, `data`."""
    event_ms: int = 0
    """When its event happened, by Redis's clock, in milliseconds since the epoch; 0: it has no event."""
    cursor: str | None = None
    """The position of the webhook once this message is delivered; None: the position stays."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent until an operator resumes the webhook."""

    by: str
    """The operator; empty: the receiver itself, by answering 410."""
    reason: str
    at_ms: int

    @property
    def disabled(self) -> bool:
        """The receiver asked for it."""
        return not self.by


@dataclass(frozen=True, slots=True)
class Skip:
    """An operator's order to go on without one message."""

    message_id: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The message that is being delivered, with its failed attempts."""

    message_id: str
    content: Mapping[str, Any]
    attempts: int = 0
    """How many attempts failed."""
    error: str = ""
    """Why the last of them failed."""
    since_ms: int = 0
    """When the first attempt failed; 0: none did, or an operator has resumed the webhook since."""
    next_ms: int = 0
    """When the next attempt is due; 0: at once."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A message that was never delivered."""

    message_id: str
    content: Mapping[str, Any]
    error: str
    cause: str
    """`skipped` by an operator, or `gave_up` after `webhooks.give_up_after`."""
    by: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker reads before each attempt, because an operator may have changed it."""

    paused: Pause | None
    skip: Skip | None
    waiting: Waiting | None


@dataclass(frozen=True, slots=True)
class WebhookState:
    """The position of a webhook in the events, and the state of its delivery."""

    cursor: str | None
    """The last event that was delivered or set aside; None: the webhook has not begun."""
    paused: Pause | None = None
    waiting: Waiting | None = None
    skip: Skip | None = None
    gap: Message | None = None
    """The message that reports what was set aside; it is delivered before anything else."""
    set_aside: tuple[SetAside, ...] = ()
    """The latest messages that were set aside, newest first."""

    @property
    def attempts(self) -> int:
        """How many attempts in a row failed for the message that waits."""
        return self.waiting.attempts if self.waiting is not None else 0

    @property
    def error(self) -> str:
        """Why the last of them failed."""
        return self.waiting.error if self.waiting is not None else ""

    @property
    def name(self) -> str:
        """The state in one word."""
        if self.paused is not None:
            return "disabled" if self.paused.disabled else "paused"
        return "failing" if self.attempts else "new" if self.cursor is None else "active"


class WebhookStates(Protocol):
    """Reads the state of webhooks, and keeps operators' orders. Raises StoreUnavailable if Redis does not answer."""

    async def state(self, tenant: str, webhook: str) -> WebhookState:
        """Return the state of one webhook."""

    async def pause(self, tenant: str, webhook: str, pause: Pause) -> bool:
        """Send nothing until it is resumed. Returns whether that is new: the first pause stays."""

    async def resume(self, tenant: str, webhook: str) -> bool:
        """Send again, the message that waits at once. Returns whether the webhook was paused."""

    async def skip(self, tenant: str, webhook: str, skip: Skip) -> None:
        """Go on without a message. The worker does so within a second, if that message still waits."""


class WebhookLedger(WebhookStates, Protocol):
    """Keeps the state of webhooks, and which worker delivers each. Raises StoreUnavailable if Redis does not answer."""

    async def hold(self, tenant: str, webhook: str) -> bool:
        """Take or keep the lease; a worker that dies loses it after a while."""

    async def release(self, tenant: str, webhook: str) -> None:
        """Release the lease."""

    async def take_up(self, tenant: str, webhook: str) -> WebhookState:
        """Return the state of a webhook that this worker delivers from now on.

        A new one begins behind what has happened so far.
        """

    async def orders(self, tenant: str, webhook: str) -> Orders:
        """Return what applies to the next attempt."""

    async def wait(self, tenant: str, webhook: str, waiting: Waiting) -> None:
        """Store the message that waits, with the state of its delivery."""

    async def delivered(self, tenant: str, webhook: str, cursor: str | None) -> None:
        """Note that a message arrived, and with it everything up to `cursor` (None: the cursor stays)."""

    async def set_aside(
        self, tenant: str, webhook: str, one: SetAside, cursor: str | None, gap: Message | None
    ) -> None:
        """List a message that is not delivered, and continue after it; `gap` reports it to the receiver."""


def gap_message(tenant: str, number: str, at: str, **data: Any) -> Message:
    """Return the message that reports events which a receiver does not get.

    Args:
        tenant: whose events they are.
        number: identifies the gap within the tenant.
        at: when the gap was noticed, as a timestamp.
        **data: what is known of it: `after`, `cause`, and for a message that was set aside `skipped`, `by`, `reason`.
    """
    return Message(f"{tenant}.{number}", {"type": "gap", "timestamp": at, "data": {"tenant": tenant, **data}})


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
