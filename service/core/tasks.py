"""Tasks that run beside the requests."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

log = structlog.get_logger()

AGAIN_S = 0.3
"""So long a task may take to clear up (a round trip or two)."""

RESTART_AFTER_S = 1.0


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run what never ends by itself; a mistake of ours that ends it is told, and it begins anew."""
    while True:
        try:
            await work()
        except Exception as error:  # whatever it is: the service serves on, and so shall this
            log.error("a task failed and begins anew", task=name, exc_info=error)
        await asyncio.sleep(RESTART_AFTER_S)


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until it is heard: before Python 3.12, `asyncio.wait_for` (in redis-py) may lose a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
