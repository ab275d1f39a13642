"""`check --redis`: runs the start check on the configured server without starting the service."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.config.settings import Settings
from service.core.clocks import ClockDifferences
from service.store.clock_comparison import ClockComparison
from service.store.connection.calls import AWAY
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.failures import reason_of
from service.store.connection.server_check import ServerCheck
from service.store.embedded.server import EmbeddedError, chosen, folder_of
from service.store.namespace import use_namespace


def check_redis(settings: Settings, path: Path) -> tuple[list[str], list[str]]:
    """Check the configured server as the service does on every new connection.

    Args:
        settings: the configuration.
        path: its file, beside which the embedded server keeps its data.

    Returns:
        Why the service would not be ready, and what operators should know.
    """
    if settings.redis.url == "embedded":
        return _embedded(folder_of(path, settings.redis.namespace))
    use_namespace(settings.redis.namespace)
    return asyncio.run(_asked(settings))


def _embedded(folder: Path) -> tuple[list[str], list[str]]:
    """Check whether there is a server for the data folder; the embedded server itself starts with the service."""
    try:
        if chosen(folder) is not None:
            return [], []
    except EmbeddedError as error:
        return [str(error)], []
    return [], ["there is no Redis server on this machine: everything is kept inside the process, and lost at its end"]


async def _asked(settings: Settings) -> tuple[list[str], list[str]]:
    check = ServerCheck(allow_eviction=settings.redis.allow_eviction)
    tls = TlsFiles(**settings.redis.tls.model_dump())
    access = RedisAccess.by_url(settings.redis.url, tls, timeout_s=settings.redis.timeout)
    router = access.router(timeout_s=settings.redis.timeout, check=check)
    try:
        await router.open()
        if router.is_down:
            return check.blockers() or [await _why_away(access.client)], check.warnings()
        clocks = ClockDifferences()
        with suppress(*AWAY):  # it answered a moment ago: other findings report what is wrong now
            await ClockComparison(access.client, clocks).compare()
        return check.blockers(), [*check.warnings(), *clocks.warnings()]
    finally:
        await router.close()
        await access.close()


async def _why_away(client: Any) -> str:
    """Return why the server cannot be used, as far as a PING finds out: the address, the credentials, the database."""
    try:
        await client.execute_command("PING")
    except AWAY as error:
        return f"redis cannot be used by what redis.url says: {reason_of(error)}"
    return "redis answers, but takes no writes: redis.url must lead to a primary that has memory and disk left"
