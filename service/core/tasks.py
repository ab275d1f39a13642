"""Background tasks: they are restarted after an error, and report when they last ran."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import structlog

log = structlog.get_logger()

AGAIN_S = 0.3
"""How long a task may take to end (a round trip or two)."""

RESTART_AFTER_S = 1.0
LOG_EVERY_S = 1.0
"""How often the log repeats a failure of one kind of a task."""
CRASH = "crash"
"""The kind of a failure that ends a task, which then starts again."""


_current: ContextVar[tuple["LastRuns", str] | None] = ContextVar("current task", default=None)


class LastRuns:
    """When each background task last completed a round, and how often it failed, for monitoring.

    Args:
        clock: seconds since the epoch.
        monotonic: seconds of a clock that does not go back.
    """

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self.at_s: dict[str, float] = {}
        """Task → seconds since the epoch."""
        self.failures: Counter[tuple[str, str]] = Counter()
        """Task and kind → failures."""
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def mark(self, name: str) -> None:
        """Note that the task `name` completed a round now."""
        self.at_s[name] = self._clock()

    def fail(self, name: str, kind: str, reason: str) -> None:
        """Count a failure of the task `name`. For each kind the log has the reason, at most once a second."""
        at = name, kind or "other"
        self.failures[at] += 1
        now, (logged_at, counted) = self._monotonic(), self._logged.get(at, (float("-inf"), 0))
        if now - logged_at >= LOG_EVERY_S:
            self._logged[at] = now, self.failures[at]
            times = self.failures[at] - counted
            log.warning("a background task failed", task=name, kind=at[1], reason=reason, times=times)


def work_failed(reason: str, kind: str) -> None:
    """Note that the current background task failed, and goes on. Outside of `keep_running` only the log has it.

    Args:
        reason: for the log; may name hosts.
        kind: a word for the metric, such as READONLY or timeout.
    """
    if (current := _current.get()) is not None:
        runs, name = current
        runs.fail(name, kind, reason)
    else:
        log.warning("a background task failed", kind=kind, reason=reason)


def round_completed() -> None:
    """Note that the current background task completed a round. Outside of `keep_running` it does nothing."""
    if (current := _current.get()) is not None:
        runs, name = current
        runs.mark(name)


async def keep_running(name: str, work: Callable[[], Awaitable[None]], runs: LastRuns | None = None) -> None:
    """Run `work`, which does not end by itself, for ever. If an error ends it, log the error and start it again.

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
        except Exception as error:  # of any kind: neither the service nor the task may end
            with suppress(Exception):  # a log that fails must not end the task
                if (current := _current.get()) is not None:
                    current[0].failures[current[1], CRASH] += 1
                log.error("a task failed and begins anew", task=name, exc_info=error)
        await asyncio.sleep(RESTART_AFTER_S)


async def run_to_end(name: str, work: Callable[[], Awaitable[None]], runs: LastRuns | None = None) -> None:
    """Run `work`, which ends by itself, as a background task. An error that ends it is logged and counted.

    Args:
        name: the task's name in the log and in the metric.
        work: a coroutine function.
        runs: where its failures are counted.
    """
    _current.set(None if runs is None else (runs, name))
    try:
        await work()
    except Exception as error:  # of any kind: nobody waits for the task
        with suppress(Exception):
            if runs is not None:
                runs.failures[name, CRASH] += 1
            log.error("a task failed", task=name, exc_info=error)


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel until the task ends: before Python 3.12, `asyncio.wait_for` (in redis-py) may lose a cancellation.

    A cancellation of the caller waits, too, so that a task which ends others leaves none behind.
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
