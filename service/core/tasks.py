"""Tasks that run beside the requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import structlog

log = structlog.get_logger()

AGAIN_S = 0.3
"""So long a task may take to clear up (a round trip or two)."""

RESTART_AFTER_S = 1.0


_current: ContextVar[tuple["LastRuns", str] | None] = ContextVar("current task", default=None)


class LastRuns:
    """When each background task last completed a round, so that one that hangs can be seen from outside."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.at_s: dict[str, float] = {}
        """Task → seconds since the epoch."""

    def mark(self, name: str) -> None:
        """Note that the task `name` completed a round now."""
        self.at_s[name] = self._clock()


def round_completed() -> None:
    """Note that the background task that runs this completed a round. Outside of `keep_running` it does nothing."""
    if (current := _current.get()) is not None:
        runs, name = current
        runs.mark(name)


async def keep_running(name: str, work: Callable[[], Awaitable[None]], runs: LastRuns | None = None) -> None:
    """Run `work`, which never ends by itself, for ever. Whatever ends it is logged, and it begins again.

    Args:
        name: the task's name in the log and in the metric.
        work: a coroutine function; calls `round_completed` once a round.
        runs: where `round_completed` notes the time.
    """
    if runs is not None:
        _current.set((runs, name))
        runs.mark(name)
    while True:
        try:
            await work()
        except Exception as error:  # whatever it is: the service serves on, and so shall this
            with suppress(Exception):  # a report that fails ends no task either
                log.error("a task failed and begins anew", task=name, exc_info=error)
        await asyncio.sleep(RESTART_AFTER_S)


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel until it is heard: before Python 3.12, `asyncio.wait_for` (in redis-py) may lose a cancellation.

    Whoever ends this meanwhile waits as well: a task that ends others leaves none of them behind.
    """
    pending, cancelled = set(tasks), False
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        except asyncio.CancelledError:
            cancelled = True
            pending = {task for task in pending if not task.done()}
    if cancelled:
        raise asyncio.CancelledError
