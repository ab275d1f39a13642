"""The start check: whether the server behind `redis.url` can be used at all, asked on every new connection.

A server that cannot be used is never an exception for the process: the connection counts as failed, so requests are
answered as without Redis, the probe asks again, and the service recovers once the server is mended. What was found
is kept for `/readyz`, and the log says what to change.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import ReadOnlyError, ResponseError

from service.core.errors import StoreUnsuitable
from service.store.scripts import SCRIPTS
from service.store.servers import OLDEST
from service.store.wire import Wire

log = structlog.get_logger()


class ServerCheck:
    """What is wrong with the servers that are connected to, by node."""

    def __init__(self) -> None:
        self._blockers: dict[str, tuple[str, ...]] = {}
        self._warnings: dict[str, tuple[str, ...]] = {}

    def blockers(self) -> list[str]:
        """Return why a server cannot be used; empty where every one can."""
        return [sentence for sentences in self._blockers.values() for sentence in sentences]

    def warnings(self) -> list[str]:
        """Return what operators should know of servers that can be used."""
        return [sentence for sentences in self._warnings.values() for sentence in sentences]

    def forget(self, node: str) -> None:
        """Drop what was found at a node that is not connected to any more."""
        self._blockers.pop(node, None)
        self._warnings.pop(node, None)

    async def examine(self, wire: Wire, node: str, *, cluster_url: str | None) -> None:
        """Check the server at the other end of a new connection, and load the admission's script.

        All questions are one round trip: a distant Redis is slow, not away.

        Args:
            wire: the connection.
            node: how messages name the server.
            cluster_url: what to write in `redis.url` should it turn out to be a node of a Cluster; None where it is
                expected to be one.

        Raises:
            StoreUnsuitable: the server cannot be used as it is; says what to change.
            redis.exceptions.ReadOnlyError: the server is a replica.
            redis.exceptions.ResponseError: the script cannot be loaded.
        """
        hello, loaded = await wire.exchange([("HELLO",), ("SCRIPT", "LOAD", SCRIPTS["admit"].text)], math.inf)
        server = _fields(hello)
        if server.get("role") == "replica":
            raise ReadOnlyError("this server is a replica")
        blockers = [*_of_version(server, node), *_of_mode(server, node, cluster_url)]
        self._note(node, blockers, [])
        if blockers:
            raise StoreUnsuitable("; ".join(blockers))
        if isinstance(loaded, ResponseError):
            raise loaded

    def _note(self, node: str, blockers: Sequence[str], warnings: Sequence[str]) -> None:
        """Keep the findings; the log has each once, and again when it has changed."""
        for found, kept, tell in ((blockers, self._blockers, log.error), (warnings, self._warnings, log.warning)):
            for sentence in found:
                if sentence not in kept.get(node, ()):
                    tell("redis needs to be changed", what=sentence)
            kept[node] = tuple(found)


def _fields(hello: Any) -> Mapping[str, str]:
    """The answer to HELLO, which every user may ask; empty where the server does not know it."""
    if not isinstance(hello, Sequence) or isinstance(hello, str | bytes):
        return {}
    texts = [part.decode() if isinstance(part, bytes) else "" for part in hello]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _of_version(server: Mapping[str, str], node: str) -> list[str]:
    found = re.match(r"(\d+)\.(\d+)", server.get("version", ""))
    if found is None or server.get("server") == "fakeredis" or (int(found[1]), int(found[2])) >= OLDEST:
        return []
    oldest = f"{OLDEST[0]}.{OLDEST[1]} is the oldest that is supported"
    return [f"{node}: Redis {found[0]} is too old; {oldest}"]


def _of_mode(server: Mapping[str, str], node: str, cluster_url: str | None) -> list[str]:
    if server.get("mode") != "cluster" or cluster_url is None:
        return []
    return [f"{node} is a node of a Cluster: write {cluster_url} in redis.url, with the same credentials"]
