"""Ending tasks that run beside the requests."""

import asyncio
from collections.abc import Collection

AGAIN_S = 0.3
"""So long a task may take to clear up (a round trip or two)."""


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until it is heard: before Python 3.12, `asyncio.wait_for` (in redis-py) may lose a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
