"""Limits, and how much of them a subject has used.

A limit admits at most `requests` in any `window_s` seconds. The windows themselves are Redis's
(`store/lua/window.lua`); here are those that stand in while it is away: a list of times each, oldest first. When it is
full, the entry at `-requests` says when the next one is admitted: exact, without bursts at a window's edge.
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


class LocalWindows:
    """Windows in the memory of this process, for limits with `on_outage: local`.

    Bounded: past `subjects`, the one that was longest unused is forgotten.
    """

    def __init__(self, subjects: int = 100_000) -> None:
        self._subjects = subjects
        self._times: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def decide(self, charges: Sequence[tuple[str, Charge]], now_us: int) -> list[LimitState]:
        """Decide all charges together: if one refuses, none is charged.

        Args:
            charges: pairs of the tenant's name and the charge.
            now_us: microseconds of a clock that does not go back.
        """
        windows = [self._window(tenant, charge, now_us) for tenant, charge in charges]
        fits = [len(w) < c.limit.requests for w, (_, c) in zip(windows, charges, strict=True)]
        admitted = all(fit or c.limit.shadow for fit, (_, c) in zip(fits, charges, strict=True))
        limit_states = []
        for window, fit, (_, charge) in zip(windows, fits, charges, strict=True):
            if admitted and fit:
                window.append(now_us)
            limit, used = charge.limit, len(window)
            first = window[max(0, used - limit.requests)] if used else now_us - limit.window_s * MICRO
            reset_us = first + limit.window_s * MICRO - now_us
            limit_states.append(LimitState(limit=limit, used=used, reset_us=reset_us, over=not fit))
        return limit_states

    def _window(self, tenant: str, charge: Charge, now_us: int) -> deque[int]:
        key = (tenant, f"{charge.limit.name}:{charge.subject}")
        window = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        if len(self._times) > self._subjects:
            self._times.popitem(last=False)
        horizon = now_us - charge.limit.window_s * MICRO
        while window and window[0] <= horizon:
            window.popleft()
        return window
