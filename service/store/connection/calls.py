"""How everything but the admissions reaches Redis: scripts by their SHA, failures as StoreUnavailable."""

import random
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError

from service.store.connection.failures import unavailable
from service.store.scripts import SCRIPTS

AWAY = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What redis-py raises where Redis is not to be had. A Cluster whose slots are not known is none of its RedisErrors."""

UNHEARD = (*AWAY, KeyError, RuntimeError)
"""The same for subscriptions: redis-py looks a channel's slot up in a map that it may not have, and uvloop raises
RuntimeError where a connection was closed meanwhile.
"""

P = ParamSpec("P")
T = TypeVar("T")


def redis_call(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn what redis-py raises into StoreUnavailable."""

    @wraps(method)
    async def open_redis(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except AWAY as error:
            raise unavailable(error) from error
        except RuntimeError as error:
            if "is closed" not in str(error):
                raise
            # uvloop's way to say that the connection was closed meanwhile: the primary is being replaced.
            raise unavailable(ConnectionResetError(str(error))) from error

    return open_redis


def subscriber(client: Any) -> Any:
    """Return a redis-py PubSub. On a Cluster every primary hears every message, so any of them serves.

    redis-py would choose the one that owns the channel's slot; while that is away nobody would hear anything.
    """
    nodes = client.get_primaries() if isinstance(client, RedisCluster) else []
    return client.pubsub(node=random.choice(nodes)) if nodes else client.pubsub()  # noqa: S311  # nosec B311


async def run(client: Redis, name: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
    """Run the verb `name`; where Redis does not know it any more, with its text.

    A primary that was demoted keeps its connections open and answers READONLY. New ones may lead to the new primary.
    """
    verb = SCRIPTS[name]
    try:
        try:
            return await client.evalsha(verb.sha, len(keys), *keys, *map(str, args))
        except NoScriptError:
            return await client.eval(verb.text, len(keys), *keys, *map(str, args))
    except ReadOnlyError:
        if isinstance(client, Redis):
            await client.connection_pool.disconnect(inuse_connections=False)
        raise
