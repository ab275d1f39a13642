"""Questions and sweepers for the store's tests."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from service.core.admission import Question, Terms
from service.core.limits import Limit, Per
from service.core.operator_actions import ActionResult, Author
from service.core.sessions import Cause
from service.core.tokens.claims import Identity
from service.store.admissions.batcher import SessionRules
from service.store.connection.client import RedisAccess
from service.store.connection.pipeline import AdmissionPipeline
from service.store.connection.server_check import ServerCheck
from service.store.sessions.expiry_sweep import Sweeper, SweepRules
from service.store.sessions.operator_actions import RedisOperatorActions

HOUR_MS = 3_600_000
RULES = SessionRules(seen_every_ms=60_000, logout_grace_ms=0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def ask_about(
    user: str | None,
    *,
    tenant: str = "acme",
    cause: Cause = Cause.REQUEST,
    limits: Sequence[Limit] = (),
    expires_ms: int | None = None,
    passive: bool = False,
    capabilities: tuple[str, ...] = ("status",),
    client: str = "10.0.0.1",
    issued_s: float | None = None,
) -> Question:
    """A question about `user`; None asks about limits alone, as for a request that names no tenant."""
    identity = None
    if user is not None:
        identity = Identity(tenant, user, now_ms() + HOUR_MS if expires_ms is None else expires_ms, issued_s)
    name = None if user is None else tenant
    terms = Terms(name, "some", tuple(limits), capabilities=capabilities, cause=cause)
    return Question(terms if user is not None else terms.anonymous, client, "req-1", user=identity, passive=passive)


def sweeper(
    access: RedisAccess,
    leeways_ms: Mapping[str, int] | None = None,
    retention_ms: int = 86_400_000,
    longest_ms: int = 31 * 86_400_000,
) -> Sweeper:
    rules = SweepRules({"acme": 0} if leeways_ms is None else leeways_ms, retention_ms, longest_ms)
    return Sweeper(access.client, lambda: rules)


def pipeline_of(access: RedisAccess, **how: Any) -> AdmissionPipeline:
    assert access.connect is not None
    how.setdefault("examine", partial(ServerCheck().examine, node="redis", cluster_url="redis+cluster://redis"))
    return AdmissionPipeline(access.connect, **how)


def exact_window(times_us: Sequence[int]) -> bytes:
    """A window of up to 18 minutes that holds an admission at each of these moments, in µs since the epoch."""
    base_us = times_us[0]
    return b"\x10" + base_us.to_bytes(7, "big") + b"".join((at - base_us).to_bytes(4, "big") for at in times_us)


def earlier_window(times_us: Sequence[int], window_s: int, now_us: int, buckets: int | None = None) -> bytes:
    """A window as the version before wrote it by now; with `buckets` of a limit above 1,000 requests."""
    exponent = 0
    while window_s * 1_000_000 / 2**exponent > 2**30:
        exponent += 1
    tick_us = 2**exponent
    if buckets is None:
        entries = b"".join((at // tick_us % 2**32).to_bytes(4, "big") for at in times_us)
        return bytes([ord("A") + exponent]) + entries
    width = (-(-window_s * 1_000_000 // tick_us) + bool(exponent)) // buckets
    ends: list[list[int]] = []
    for count, at in enumerate(times_us, 1):
        if ends and ends[-1][0] >= at // tick_us:
            ends[-1][1] = count
        else:
            ends.append([at // tick_us + width - 1, count])
    entries = b"".join((end % 2**32).to_bytes(4, "big") + count.to_bytes(4, "big") for end, count in ends)
    return bytes([ord("a") + exponent]) + bytes(4) + entries


def limit(requests: int, window_s: int = 3600, **how: object) -> Limit:
    return Limit(name="some", per=Per.IP, requests=requests, window_s=window_s, **how)  # type: ignore[arg-type]


async def act(access: RedisAccess, cause: Cause) -> ActionResult:
    [act] = await RedisOperatorActions(access.client).act("acme", ["alice"], cause, Author("root", reason="because"))
    return act
