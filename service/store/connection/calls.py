"""Calls of Redis for everything but admissions: functions by name, failures as StoreUnavailable."""

import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from traceback import walk_tb
from typing import Any, ParamSpec, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.core.errors import StoreUnavailable
from service.core.tasks import work_failed
from service.store.connection.failures import is_loaded_already, is_unknown_function, reason_of, unavailable
from service.store.scripts import LIBRARY

AWAY = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What redis-py raises while Redis is away. A Cluster with unknown slots is not one of its RedisErrors."""

UNHEARD = (*AWAY, AttributeError, IndexError, KeyError, RuntimeError)
"""The same for subscriptions, with what redis-py raises by accident (see `client_errors`)."""

Text = str | bytes
P = ParamSpec("P")
T = TypeVar("T")


def note_failure(error: Exception) -> None:
    """Note that Redis failed the current background task: its reason in the log, its kind in the metric."""
    failure = unavailable(error)
    work_failed(failure.reason, failure.kind)


async def servers_of(client: Redis | RedisCluster) -> list[tuple[str, dict[str, Any]]]:
    """Return each primary by name, with the arguments to send a command to it."""
    if not isinstance(client, RedisCluster):
        return [("primary", {})]
    await client.initialize()  # at start, it does not know its nodes
    return [(str(node.name), {"target_nodes": node}) for node in client.get_primaries()]


@contextmanager
def failures_noted() -> Iterator[None]:
    """Note a StoreUnavailable that is raised within, and go on."""
    try:
        yield
    except StoreUnavailable as error:
        note_failure(error)


def redis_call(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn what redis-py raises into StoreUnavailable."""

    @wraps(method)
    async def open_redis(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with client_errors():
                return await method(*args, **kwargs)
        except AWAY as error:
            raise unavailable(error) from error

    return open_redis


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn what redis-py raises by accident into its ConnectionError.

    A command whose connection is closed meanwhile, as in a failover, fails with AttributeError (the writer is None by
    then) or with uvloop's RuntimeError. A Cluster client whose map of slots is being replaced fails with
    AttributeError, IndexError or KeyError.
    """
    try:
        yield
    except AWAY:
        raise
    except Exception as error:
        if not _comes_from_client(error):
            raise
        raise RedisConnectionError(f"redis-py failed: {reason_of(error)}") from error


def _comes_from_client(error: Exception) -> bool:
    """Return whether a function of redis-py raised the error, or was left by it."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    return any(name.partition(".")[0] == "redis" for name in modules)


def subscriber(client: Any) -> Any:
    """Return a redis-py PubSub. On a Cluster every primary hears every message, so any of them serves.

    redis-py would choose the one that owns the channel's slot; while that is away nobody would hear anything.
    """
    nodes = client.get_primaries() if isinstance(client, RedisCluster) else []
    return client.pubsub(node=random.choice(nodes)) if nodes else client.pubsub()  # noqa: S311  # nosec B311


async def run(client: Redis | RedisCluster, name: str, keys: Sequence[Text], args: Sequence[Text | int]) -> Any:
    """Call the function `name`; where Redis does not have it, load the library and call it again: it was not run."""
    call: tuple[str | bytes | int, ...] = ("FCALL", LIBRARY.functions[name], len(keys), *keys, *args)
    with client_errors():
        at = await owner_of(client, keys[0])
        try:
            return await client.execute_command(*call, **at)
        except ResponseError as error:
            if not is_unknown_function(error):
                raise
        with suppress_loaded():
            await client.execute_command("FUNCTION LOAD", LIBRARY.text, **at)
        return await client.execute_command(*call, **at)


def is_cluster(client: Redis | RedisCluster) -> bool:
    """Return whether keys of different tenants cannot be in one call."""
    return isinstance(client, RedisCluster)


async def owner_of(client: Redis | RedisCluster, key: Text) -> dict[str, Any]:
    """Return the arguments that send a command to the node of a Cluster that owns a key.

    redis-py would ask Redis for the keys of each FCALL before it sends it, and send a SCAN to every node.
    """
    if not isinstance(client, RedisCluster):
        return {}
    await client.initialize()
    node = client.get_node_from_key(key if isinstance(key, str) else key.decode())
    if node is None:
        raise ClusterDownError("no node of the Cluster is known to own the slot")
    return {"target_nodes": node}


@contextmanager
def suppress_loaded() -> Iterator[None]:
    """Ignore that the library is loaded already: another worker was faster."""
    try:
        yield
    except ResponseError as error:
        if not is_loaded_already(error):
            raise
