"""The retention of windows whose limit gets a longer window.

The key of a window has a TTL, which ends soon after its last entry has left the window that the limit had at the last
admission. When an operator, a reload or a restart sets a longer window, the entries must still count. So all keys are
extended before the first of them ends (`GRACE_MS` in `lua/window_form.lua` is the time for it). There is no index, so
this reads all keys of the database, a thousand at a time; a window seldom gets longer.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis

from service.core.errors import StoreUnavailable
from service.core.limits import MICRO
from service.core.tasks import round_completed
from service.store.connection.calls import note_failure, redis_call, run
from service.store.keyspace import NAMES, limit_of_window, windows_of

log = structlog.get_logger()

BITE = 500
"""How many windows one call extends."""
SCANNED_AT_ONCE = 1000
AGAIN_S = 0.5
"""Seconds until the next attempt while Redis is away."""
IDLE_ROUND_S = 5.0
"""How often the task reports that it is alive while there is nothing to extend, in seconds."""


class Retention:
    """Extends windows: at once for an operator, in the background after a reload."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._wanted: dict[tuple[str, str], int] = {}
        self._configured: dict[tuple[str, str], int] = {}
        self._woken = asyncio.Event()

    @redis_call
    async def extend(self, windows_s: Mapping[tuple[str, str], int]) -> int:
        """Keep windows for as long as their limits need now.

        Args:
            windows_s: (tenant, limit) → its window in seconds.

        Returns:
            How many windows are kept for longer.

        Raises:
            StoreUnavailable: Redis did not answer. Some may not have been extended.
        """
        tenants = {tenant for tenant, _ in windows_s}
        pattern = windows_of(tenants.pop() if len(tenants) == 1 else None)
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        longer = 0
        async for raw in self._client.scan_iter(match=pattern, count=SCANNED_AT_ONCE):
            key = raw.decode()
            limit = limit_of_window(key)
            if limit is None or limit not in windows_s:
                continue
            found[limit].append(key)
            if len(found[limit]) >= BITE:
                longer += await self._retain(found.pop(limit), windows_s[limit])
        for limit, keys in found.items():
            longer += await self._retain(keys, windows_s[limit])
        return longer

    async def _retain(self, keys: list[str], window_s: int) -> int:
        return int(await run(self._client, "retain", keys, [window_s * MICRO]))

    def follow(self, windows_s: Mapping[tuple[str, str], int]) -> None:
        """Compare the windows of a new configuration with the old one; `run_forever` extends those that became longer.

        After the start all windows are extended, unless a service with the same windows used this Redis before.
        """
        before_s = self._configured
        self._configured = dict(windows_s)
        if before_s:
            self.want({at: one_s for at, one_s in windows_s.items() if one_s > before_s.get(at, one_s)})
        self._woken.set()

    def want(self, windows_s: Mapping[tuple[str, str], int]) -> None:
        """Let `run_forever` extend these soon."""
        if windows_s:
            self._wanted.update(windows_s)
            self._woken.set()

    async def run_forever(self) -> None:
        """Extend what is due; while Redis is away, try again."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_ROUND_S):
                    await self._woken.wait()
            round_completed()
            if not self._woken.is_set():
                continue
            self._woken.clear()
            wanted, self._wanted = self._wanted, {}
            try:
                await self._catch_up(wanted)
            except StoreUnavailable as error:
                note_failure(error)
                self._wanted = {**wanted, **self._wanted}
                self._woken.set()
                await asyncio.sleep(AGAIN_S)

    @redis_call
    async def _catch_up(self, wanted: Mapping[tuple[str, str], int]) -> None:
        configured = self._configured
        digest = _digest(configured)
        known = await self._client.get(NAMES.windows) == digest
        if not wanted and known:
            return
        extended = wanted if known else {**configured, **wanted}
        longer = await self.extend(extended)
        if not known:
            await self._client.set(NAMES.windows, digest)
        if longer:
            log.info("windows are kept for longer", limits=len(extended), windows=longer)


def _digest(windows_s: Mapping[tuple[str, str], int]) -> bytes:
    text = repr(sorted(windows_s.items()))
    return hashlib.sha256(text.encode()).hexdigest().encode()
