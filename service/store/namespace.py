"""The namespace of a deployment in Redis: the prefix of its keys and channels, and function libraries of its own."""

from service.store.keyspace import NAMES
from service.store.scripts import rebuild

_used: list[str] = []


def use_namespace(namespace: str) -> None:
    """Use `redis.namespace` in this process. To be called before anything opens Redis.

    Raises:
        RuntimeError: another one is used already.
    """
    if _used and _used != [namespace]:
        raise RuntimeError(f"redis.namespace {namespace!r}: this process uses {_used[0]!r} already")
    _used[:] = [namespace]
    if namespace != NAMES.namespace:
        NAMES.become(namespace)
        rebuild()
