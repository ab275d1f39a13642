"""One attempt to deliver a message, and its result."""

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from service import __version__
from service.core.webhooks import Message, Webhook, sent_at_s, signed

TIMEOUT_S = 10.0
LONGEST_RETRY_AFTER_S = 86_400.0
"""The longest wait that a receiver may ask for, in seconds."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not arrive."""

    error: str
    """What failed, for an operator. It contains no URL, which may have a password."""
    retry_after_s: float = 0.0
    """Seconds that the receiver asks to wait."""
    gone: bool = False
    """The receiver answered 410: it wants no further messages."""


def session(timeout_s: float = TIMEOUT_S) -> aiohttp.ClientSession:
    """Return a client for all webhooks of a worker."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_s), headers={"user-agent": f"rollcall/{__version__}"}
    )


async def send(client: aiohttp.ClientSession, webhook: Webhook, message: Message) -> Failure | None:
    """Attempt to deliver `message` once. Returns why it did not arrive, or None."""
    body = body_of(message.content)
    headers = {
        **signed(webhook.keys, message.id, sent_at_s(time.time(), message.event_ms), body),
        "content-type": "application/json",
    }
    try:
        async with client.post(webhook.url, data=body, headers=headers, allow_redirects=False) as answer:
            if 200 <= answer.status < 300:
                return None
            retry_after_s = 0.0
            if answer.status in (429, 503):
                retry_after_s = read_retry_after(answer.headers.get("retry-after", ""), time.time())
            return Failure(f"the receiver answered {answer.status}", retry_after_s, gone=answer.status == 410)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: the host is not valid
        return Failure(describe(error))


def body_of(content: Mapping[str, Any]) -> bytes:
    """Return the body of a message: JSON without white space, as receivers' libraries write it."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def read_retry_after(text: str, now_s: float) -> float:
    """Return the seconds that a `Retry-After` field asks to wait: it is a number, or a date (RFC 9110, section 10.2.3).

    What is neither is 0; more than a day is a day.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:12])
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        wait_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)


def describe(error: Exception) -> str:
    """Return what failed: name resolution, the connection, TLS, time, or the answer."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the receiver's name was not resolved"
    if isinstance(error, TimeoutError):
        return f"the receiver did not answer within {TIMEOUT_S:g} s"
    if (reason := _tls_reason(error)) is not None:
        return f"TLS failed: {reason}"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        # asyncio joins the failures of several addresses into one error without a number.
        if isinstance(cause, ConnectionRefusedError) or "Connect call failed" in str(cause):
            return "the connection was refused"
        return f"no connection: {cause.strerror or type(cause).__name__}"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "the receiver closed the connection without an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the receiver's answer is not HTTP"
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return "the URL cannot be used"
    return f"the request failed: {type(error).__name__}"


def _tls_reason(error: Exception) -> str | None:
    causes = (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error.__cause__, error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            reason = getattr(cause, "reason", None) or type(cause).__name__  # aiohttp's own errors have none
            return str(reason).lower().replace("_", " ")
    return None
