"""What the command line does with the data in Redis, while the service runs and while it does not: `repair`, `forget`,
`backup` and `restore`.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.config.settings import NAME, Settings
from service.core.leftovers import Leftover
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded import backup as backups
from service.store.embedded import server
from service.store.namespace import use_namespace
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.repair import Repair, report

TIMEOUT_S = 10.0
"""The seconds that one step of a hundred users may take on a server under load."""


def repair(settings: Settings, path: Path) -> list[str]:
    """Check everything that is kept once, and repair what disagrees.

    Args:
        settings: the configuration.
        path: its file, beside which the embedded server keeps its data.

    Returns:
        What was done, in sentences.

    Raises:
        StoreUnavailable: Redis did not answer. What was mended stays so; running it again goes on.
        EmbeddedError: no server of this machine can read the embedded data.
    """
    use_namespace(settings.redis.namespace)
    with _url_of(settings, path) as url:
        return asyncio.run(_repaired(url, settings)) if url else ["there is no Redis server: nothing to repair"]


async def _repaired(url: str, settings: Settings) -> list[str]:
    access = RedisAccess.by_url(url, TlsFiles(**settings.redis.tls.model_dump()), timeout_s=TIMEOUT_S)
    try:
        found = await Repair(access.client).run()
    finally:
        await access.close()
    lines = [line for tenant, repaired in sorted(found.items()) for line in report(tenant, repaired)]
    return lines or ["nothing is kept"]


def forget(settings: Settings, path: Path, tenant: str | None) -> list[str]:
    """List what is kept of tenants that are not configured (None), or remove what is kept of one.

    Raises:
        ValueError: the tenant is configured, or no tenant can have that name.
        StoreUnavailable: Redis did not answer. What was removed is gone; running it again goes on.
        EmbeddedError: no server of this machine can read the embedded data.
    """
    if tenant in settings.tenants:
        raise ValueError(f"{tenant} is configured: remove it from the configuration and reload the service first")
    if tenant is not None and not re.fullmatch(NAME, tenant):
        raise ValueError(f"{tenant!r} is no tenant's name: that has 1 to 64 characters of a-z, 0-9, _ and -")
    use_namespace(settings.redis.namespace)
    with _url_of(settings, path) as url:
        return asyncio.run(_forgotten(url, settings, tenant)) if url else ["there is no Redis server: nothing is kept"]


async def _forgotten(url: str, settings: Settings, tenant: str | None) -> list[str]:
    access = RedisAccess.by_url(url, TlsFiles(**settings.redis.tls.model_dump()), timeout_s=TIMEOUT_S)
    leftovers = RedisLeftovers(access.client)
    try:
        if tenant is not None:
            kept, removed, after = await leftovers.is_kept(tenant), 0, ""
            while True:
                part = await leftovers.remove(tenant, after)
                removed += part.keys
                if part.following is None:
                    return [f"{tenant}: {removed} keys removed" if kept or removed else f"nothing is kept of {tenant}"]
                after = part.following
        await leftovers.note_all()
        found = await leftovers.of(settings.tenants)
    finally:
        await access.close()
    return _described(found) or ["nothing is kept of tenants that are not configured"]


def _described(found: Iterable[Leftover]) -> list[str]:
    lines = []
    for one in found:
        counts = ", ".join(f"{number} {status.value}" for status, number in one.counts.items() if number)
        lines.append(f"{one.tenant}: {counts or 'no users'}{', restrictions or limits' if one.has_rules else ''}")
    return lines


def backup(settings: Settings, path: Path, file: Path) -> list[str]:
    """Write a backup of the embedded data to `file`. Returns what was done, in sentences.

    Raises:
        ValueError: the data are not embedded.
        EmbeddedError: there are none, or they cannot be saved.
    """
    return [backups.back_up(_folder_of(settings, path), file)]


def restore(settings: Settings, path: Path, file: Path) -> list[str]:
    """Replace the embedded data by the backup in `file`. Returns what was done, in sentences.

    Raises:
        ValueError: the data are not embedded.
        EmbeddedError: the backup cannot be restored. Nothing is replaced then.
    """
    use_namespace(settings.redis.namespace)
    return backups.restore(_folder_of(settings, path), file, lambda url: asyncio.run(_held(url)))


def _folder_of(settings: Settings, path: Path) -> Path:
    if settings.redis.url != "embedded":
        raise ValueError("redis.url is not embedded: back up and restore that Redis with its own tools")
    return server.folder_of(path, settings.redis.namespace)


async def _held(url: str) -> list[str]:
    """Describe what a server holds, by tenant."""
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=TIMEOUT_S)
    try:
        leftovers = RedisLeftovers(access.client)
        await leftovers.note_all()
        return _described(await leftovers.of([])) or ["the backup holds no users"]
    finally:
        await access.close()


@contextmanager
def _url_of(settings: Settings, path: Path) -> Iterator[str | None]:
    """Yield the URL of the configured Redis. The embedded server is started unless a running service has it."""
    folder = server.folder_of(path, settings.redis.namespace)
    if settings.redis.url != "embedded":
        yield settings.redis.url
    elif (url := server.url_of_running(folder)) is not None:
        yield url
    elif server.chosen(folder) is None:
        yield None
    else:
        backups.refuse_another_user(folder)
        with server.running(folder) as url:
            yield url
