"""The function libraries on the servers: each worker reports which one it uses, and unused ones are deleted.

A server keeps a library for good. Versions of the service that run side by side each say that they use theirs; a worker
that finds its library gone loads it again.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from service.store.connection.calls import redis_call, run
from service.store.keyspace import NAMES
from service.store.scripts import LIBRARY, is_library, library_prefix

log = structlog.get_logger()

EVERY_S = 3600.0
UNUSED_MS = 24 * 3600 * 1000


class Libraries:
    """Reports once an hour which library is in use.

    Args:
        client: a redis-py client.
        clock_s: seconds of a clock that does not go back.
    """

    def __init__(self, client: Any, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock_s = clock_s
        self._said_at_s = float("-inf")

    @redis_call
    async def keep(self) -> None:
        """Report that the library is in use and delete unused ones, at most once an hour."""
        now_s = self._clock_s()
        if now_s - self._said_at_s < EVERY_S:
            return
        nodes = await self._nodes()
        held = [await self._held_by(**at) for at in nodes]
        others = sorted({name for names in held for name in names} - {LIBRARY.name})
        unused = await run(self._client, "use", [NAMES.libraries], [UNUSED_MS, LIBRARY.name, *others])
        for raw in unused:
            for names, at in zip(held, nodes, strict=True):
                if (name := raw.decode()) in names:
                    with suppress(ResponseError):  # another worker was faster
                        await self._client.execute_command("FUNCTION DELETE", name, **at)
            log.info("a function library that was not used for a day is deleted", library=name)
        self._said_at_s = now_s

    async def _nodes(self) -> list[dict[str, Any]]:
        """Return the argument that names each primary to the client."""
        if not isinstance(self._client, RedisCluster):
            return [{}]
        await self._client.initialize()
        return [{"target_nodes": node} for node in self._client.get_primaries()]

    async def _held_by(self, **at: Any) -> frozenset[str]:
        """Return the libraries of any version of this service on a node."""
        listed = await self._client.execute_command("FUNCTION LIST", "LIBRARYNAME", f"{library_prefix()}*", **at)
        return frozenset(name for entry in listed if is_library(name := name_of(entry)))


def name_of(entry: Any) -> str:
    """Return the name of a library in an answer to FUNCTION LIST, which is a list of pairs or a map."""
    fields = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=False))
    return bytes(fields[b"library_name"]).decode()
