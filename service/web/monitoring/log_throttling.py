"""Log lines for repeated refusals and failures, written once a second: they must not cost more than the refusals."""

import asyncio
from collections import Counter

import structlog

from service.core.tasks import round_completed
from service.web.monitoring.address_problems import AddressWarnings

log = structlog.get_logger()

FLUSH_EVERY_S = 1.0
MOST = 100
"""Addresses with a line of their own each second; the others share one."""
MOST_ADDRESSES = 1024
"""The most addresses with a line of their own in a second."""
OTHERS = "others"
"""The name for all other addresses."""
MOST_ONCE = 1000
"""So many things are logged once; a client must not fill the memory with others."""


class LogThrottle:
    """Counts repeated refusals by operation and address, and failures by kind."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._refused: set[tuple[str, str, str]] = set()
        self._addresses: set[str] = set()
        self._failures: dict[str, tuple[str, int]] = {}
        self._logged: set[tuple[str, ...]] = set()
        self.addresses = AddressWarnings()

    def is_first(self, *what: str) -> bool:
        """Return whether this is the first time; for what the log has once. After `MOST_ONCE` nothing is a first."""
        if what in self._logged or len(self._logged) >= MOST_ONCE:
            return False
        self._logged.add(what)
        return True

    def fail(self, kind: str, reason: str) -> None:
        """Count an admission that Redis did not decide. Within a second a line for each kind has the last reason."""
        self._failures[kind] = reason, self._failures.get(kind, ("", 0))[1] + 1

    def is_first_refusal(self, operation: str, what: str, client: str) -> bool:
        """Return whether the log has a line for this refusal: the first of its kind and address in a second.

        At most `MOST_ADDRESSES` addresses have lines of their own in a second, and so many kinds altogether.

        Args:
            operation: what was asked.
            what: the error's code, and its reason where the answer does not have it.
            client: the address as limits count it.
        """
        kind = operation, what, client
        if kind in self._refused or len(self._refused) >= MOST_ADDRESSES:
            return False
        if client not in self._addresses:
            if len(self._addresses) >= MOST_ADDRESSES:
                return False
            self._addresses.add(client)
        self._refused.add(kind)
        return True

    def count(self, what: str, operation: str, client: str, code: str = "") -> None:
        """Count one; the log has the number within a second."""
        kind = what, operation, client, code
        if len(self._counts) >= MOST_ADDRESSES and kind not in self._counts:
            kind = what, operation, OTHERS, code
        self._counts[kind] += 1

    def flush(self) -> None:
        """Write a line for each kind of failure and for each address, the most frequent first."""
        self.addresses.flush()
        failures, self._failures = self._failures, {}
        for kind, (reason, times) in failures.items():
            log.warning("redis did not decide", kind=kind, reason=reason, times=times)
        self._refused.clear()
        self._addresses.clear()
        counts, self._counts = self._counts, Counter()
        shown = counts.most_common(MOST)
        for (what, operation, client, code), times in shown:
            log.info(what, operation=operation, client=client, times=times, **({"code": code} if code else {}))
        if len(counts) > MOST:
            others = counts.total() - sum(times for _, times in shown)
            log.info("others", clients=len(counts) - MOST, times=others)

    async def run_forever(self) -> None:
        """Write the lines once a second."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            self.flush()
            round_completed()
