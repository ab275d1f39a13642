"""The start check: whether the server at `redis.url` can be used, on every new connection.

A server that cannot be used is never an exception for the process: the connection counts as failed, so requests are
answered as without Redis, the probe asks again, and the service recovers once the server is mended. What was found
is kept for `/readyz`, and the log says what to change.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from service.core.errors import StoreUnsuitable
from service.store.connection.failures import is_loaded_already
from service.store.connection.resp import Command, RespConnection
from service.store.embedded.servers import OLDEST
from service.store.keyspace import NAMES
from service.store.rights import questions, sample_key
from service.store.scripts import LIBRARY

log = structlog.get_logger()


class ServerCheck:
    """The findings about the connected servers, by node.

    Args:
        allow_eviction: a `maxmemory-policy` that may evict any key is no reason not to be ready.
    """

    def __init__(self, *, allow_eviction: bool = False) -> None:
        self.allow_eviction = allow_eviction
        self._blockers: dict[str, tuple[str, ...]] = {}
        self._warnings: dict[str, tuple[str, ...]] = {}

    def blockers(self) -> list[str]:
        """Return why servers cannot be used; empty: all can."""
        return [sentence for sentences in self._blockers.values() for sentence in sentences]

    def warnings(self) -> list[str]:
        """Return what operators should know of servers that can be used."""
        return [sentence for sentences in self._warnings.values() for sentence in sentences]

    def forget(self, node: str) -> None:
        """Drop what was found at a node that is not connected to any more."""
        self._blockers.pop(node, None)
        self._warnings.pop(node, None)

    async def examine(self, resp: RespConnection, node: str, *, cluster_url: str | None) -> str:
        """Check the server at the other end of a new connection, and load the function library.

        All questions are one round trip: a distant Redis is slow, not away.

        Args:
            resp: the connection.
            node: how messages name the server.
            cluster_url: what to write in `redis.url` should it turn out to be a node of a Cluster; None where it is
                expected to be one.

        Returns:
            A name of the server that changes with a restart; empty: INFO is refused.

        Raises:
            StoreUnsuitable: the server cannot be used as it is; says what to change.
            redis.exceptions.ReadOnlyError: the server is a replica.
            redis.exceptions.ResponseError: the library is not there, and cannot be loaded.
        """
        asked: list[Command] = [
            ("HELLO",),
            ("INFO", "memory"),
            ("INFO", "server"),
            ("FUNCTION", "LOAD", LIBRARY.text),
            ("FCALL", LIBRARY.functions["rights"], 0, *_as_arguments(asked_about())),
        ]
        hello, memory, about, loaded, rights = await resp.round_trip(asked, math.inf)
        server = hello_fields(hello)
        if server.get("role") == "replica":
            raise ReadOnlyError("this server is a replica")
        for answer in (loaded, rights):
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer  # the connection ended after the first answers
        found = Findings(node)
        if server.get("server") != "fakeredis":
            found.version(server.get("version", ""), rights)
            found.mode(server.get("mode", ""), cluster_url)
            found.rights(rights, loaded)
            found.eviction(memory, allowed=self.allow_eviction)
        if isinstance(rights, ResponseError) and not found.blockers:
            # What keeps the library from being loaded is why there is no function. A full server that has it runs it.
            raise loaded if isinstance(loaded, ResponseError) and not is_loaded_already(loaded) else rights
        self._note(node, found.blockers, found.warnings)
        if found.blockers:
            raise StoreUnsuitable("; ".join(found.blockers))
        run_id = re.search(rb"run_id:(\w+)", about) if isinstance(about, bytes) else None
        return run_id[1].decode() if run_id else ""

    def _note(self, node: str, blockers: Sequence[str], warnings: Sequence[str]) -> None:
        """Keep the findings; the log has each once, and again when it has changed."""
        for found, kept, write in ((blockers, self._blockers, log.error), (warnings, self._warnings, log.warning)):
            for sentence in found:
                if sentence not in kept.get(node, ()):
                    write("redis needs to be changed", what=sentence)
            kept[node] = tuple(found)


def hello_fields(hello: Any) -> Mapping[str, str]:
    """Return the answer to HELLO, which every user may send; empty: the server does not know the command."""
    if isinstance(hello, Mapping):  # RESP3
        hello = [part for field in hello.items() for part in field]
    if not isinstance(hello, Sequence) or isinstance(hello, str | bytes):
        return {}
    texts = [part.decode() if isinstance(part, bytes) else "" for part in hello]
    return dict(zip(texts[::2], texts[1::2], strict=False))


class Findings:
    """The findings about one server: reasons not to use it, and warnings."""

    def __init__(self, node: str) -> None:
        self.blockers: list[str] = []
        self.warnings: list[str] = []
        self._node = node

    def version(self, reported: str, rights: Any) -> None:
        """Check the version. Without one, the server is too old if its scripts cannot check rights."""
        found = re.match(r"(\d+)\.(\d+)", reported)
        oldest = f"{OLDEST[0]}.{OLDEST[1]} is the oldest that is supported"
        if found is not None and (int(found[1]), int(found[2])) < OLDEST:
            self.blockers.append(f"{self._node}: Redis {found[0]} is too old; {oldest}")
        elif isinstance(rights, list) and not rights[0]:
            self.blockers.append(f"{self._node}: this Redis is too old; {oldest}")

    def mode(self, reported: str, cluster_url: str | None) -> None:
        """Check that the URL of a single server does not lead to a node of a Cluster."""
        if reported == "cluster" and cluster_url is not None:
            self.blockers.append(
                f"{self._node} is a node of a Cluster: write {cluster_url} in redis.url, with the same credentials"
            )

    def rights(self, *answers: Any) -> None:
        """Check the rights of the service's user."""
        for answer in answers:
            if isinstance(answer, NoPermissionError):
                self.blockers.append(f"{self._node}: {answer}; docs/reference/redis-acl.md lists what is needed")
        lacking = answers[0]
        if missing := [asked_about()[place - 1] for place in lacking[1:]] if isinstance(lacking, list) else []:
            names = ", ".join(_named(command) for command in missing)
            self.blockers.append(
                f"{self._node}: the user of redis.url lacks rights: {names}; "
                "docs/reference/redis-acl.md lists what is needed"
            )

    def eviction(self, memory: Any, *, allowed: bool) -> None:
        """Check that the `maxmemory-policy` does not evict what must be kept."""
        info = memory if isinstance(memory, bytes) else b""
        found = re.search(rb"maxmemory_policy:([\w-]+)", info)
        policy = found[1].decode() if found else ""
        if policy.startswith("allkeys-") and not allowed:
            self.blockers.append(
                f"{self._node}: maxmemory-policy {policy} may evict any key, so that suspended users get in again: "
                "set it to noeviction, or redis.allow_eviction: true"
            )
        elif policy.startswith(("allkeys-", "volatile-")):
            lost = "any key, suspensions too" if policy.startswith("allkeys-") else "windows of limits, and charts"
            self.warnings.append(f"{self._node}: maxmemory-policy {policy} may evict {lost}; use noeviction")
        elif not policy:
            self.warnings.append(f"{self._node}: INFO is refused, so its maxmemory-policy is unknown; use noeviction")


def _named(command: Sequence[str]) -> str:
    """Return a command or another right as ACL rules write it."""
    name, *rest = [word for word in command if word]
    if name in ("PUBLISH", "SUBSCRIBE"):
        return f"+{name.lower()} &{rest[0]}"
    if rest and rest[0].isupper():
        return f"+{name.lower()}|{rest[0].lower()}"
    return f"+{name.lower()}" + (f" ~{rest[0]}" if rest and rest[0] != sample_key() else "")


def asked_about() -> list[tuple[str, ...]]:
    """Return the commands that the start check asks about."""
    return _questions(NAMES.namespace)


@cache
def _questions(_: str) -> list[tuple[str, ...]]:
    return questions(LIBRARY.commands.values())


def _as_arguments(commands: Iterable[tuple[str, ...]]) -> list[str | int]:
    words: list[str | int] = []
    for command in commands:
        words += [len(command), *command]
    return words
