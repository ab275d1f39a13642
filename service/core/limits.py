"""Limits, and how much of them a subject has used.

A limit admits at most `requests` in any `window_s` seconds. Redis has the windows (`store/lua/window.lua`); those here
replace them while it is away: each is a list of times, oldest first. When it is full, the entry at `-requests` says
when the next request is admitted: exact, without bursts at a window's edge.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

MICRO = 1_000_000
"""Microseconds in a second. Windows are kept in microseconds, the resolution of Redis's clock."""
MAX_REQUESTS, MAX_WINDOW_S = 10_000_000, 31 * 86_400
"""The largest values of a limit."""


class Per(StrEnum):
    """The kinds of subjects that a limit counts."""

    IP = "ip"
    USER = "user"
    TENANT = "tenant"


class OnOutage(StrEnum):
    """What a limit does while Redis is away."""

    LOCAL = "local"
    """Each worker enforces the limit by itself, counting from the beginning of the outage."""
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """At most `requests` admitted in any `window_s` seconds, for each subject of the kind `per`.

    Made with the configuration, and compared, and hashed, as itself.
    """

    name: str
    per: Per
    requests: int
    window_s: int
    shadow: bool = False
    """The limit is counted and reported, but never refuses."""
    on_outage: OnOutage = OnOutage.LOCAL

    @lru_cache(maxsize=1024)  # noqa: B019  # bounded, and a limit lives as long as the configuration
    def changed(self, requests: int, window_s: int) -> "Limit":
        """Return this limit with an operator's values; the same object for the same values."""
        return replace(self, requests=requests, window_s=window_s)


class Charge(NamedTuple):
    """A limit, and the subject that it charges."""

    limit: Limit
    subject: str


@dataclass(slots=True)
class LimitState:
    """How much of a limit a subject has used, after the decision."""

    limit: Limit
    used: int
    reset_us: int
    """Microseconds until there is more quota; 0: nothing is used."""
    over: bool
    """The limit has no room for this request."""

    @property
    def refuses(self) -> bool:
        """Whether this limit refuses the request."""
        return self.over and not self.limit.shadow

    @property
    def remaining(self) -> int:
        """How many more requests are admitted now."""
        left = self.limit.requests - self.used
        return left if left > 0 else 0

    @property
    def reset_s(self) -> int:
        """Whole seconds until there is more quota, rounded up."""
        return -(-self.reset_us // MICRO)


EXACT_UP_TO, BUCKETS = 1000, 100
"""Up to how many requests a limit keeps each admission, and into how many buckets of its window a larger one collects
them; as in Redis (`store/lua/window.lua`).
"""


@dataclass(slots=True)
class _LocalWindow:
    """The admissions of one subject: pairs of until when (µs) they are counted from, and how many; oldest first."""

    entries: deque[list[int]]
    used: int = 0

    def end(self, horizon_us: int) -> None:
        """Drop what has run out."""
        while self.entries and self.entries[0][0] <= horizon_us:
            self.used -= self.entries.popleft()[1]

    def charge(self, limit: Limit, now_us: int) -> None:
        """Count one admission. A bucket counts as long as its last moment does: never over, at most 1 % early."""
        self.used += 1
        if limit.requests > EXACT_UP_TO:
            if self.entries and self.entries[-1][0] >= now_us:  # its bucket has not ended
                self.entries[-1][1] += 1
                return
            now_us += limit.window_s * MICRO // BUCKETS - 1 if self.entries else 0
        self.entries.append([now_us, 1])

    def frees_us(self, requests: int) -> int:
        """Return the moment of the entry that has to run out before fewer than `requests` are used."""
        left = self.used
        for moment_us, count in self.entries:
            left -= count
            if left < requests:
                return moment_us
        return 0


class LocalWindows:
    """Windows in the memory of this process, for limits with `on_outage: local`.

    Bounded: past `subjects`, the one that was longest unused is forgotten; a window has at most about 1,000 entries.
    """

    def __init__(self, subjects: int = 100_000) -> None:
        self._subjects = subjects
        self._windows: OrderedDict[tuple[str, str], _LocalWindow] = OrderedDict()

    def decide(self, charges: Sequence[tuple[str, Charge]], now_us: int) -> list[LimitState]:
        """Decide all charges together: if one refuses, none is charged.

        Args:
            charges: pairs of the tenant's name and the charge.
            now_us: microseconds of a clock that does not go back.
        """
        windows = [self._window(tenant, charge, now_us) for tenant, charge in charges]
        fits = [w.used < c.limit.requests for w, (_, c) in zip(windows, charges, strict=True)]
        admitted = all(fit or c.limit.shadow for fit, (_, c) in zip(fits, charges, strict=True))
        limit_states = []
        for window, fit, (_, charge) in zip(windows, fits, charges, strict=True):
            limit = charge.limit
            if admitted and fit:
                window.charge(limit, now_us)
            length_us = limit.window_s * MICRO
            reset_us = window.frees_us(limit.requests) + length_us - now_us if window.used else 0
            limit_states.append(LimitState(limit=limit, used=window.used, reset_us=reset_us, over=not fit))
        return limit_states

    def _window(self, tenant: str, charge: Charge, now_us: int) -> _LocalWindow:
        key = (tenant, f"{charge.limit.name}:{charge.subject}")
        window = self._windows.setdefault(key, _LocalWindow(deque()))
        self._windows.move_to_end(key)
        if len(self._windows) > self._subjects:
            self._windows.popitem(last=False)
        window.end(now_us - charge.limit.window_s * MICRO)
        return window
