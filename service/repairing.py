"""`repair`: mends records and indexes that disagree, at the configured Redis, while the service runs or not."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.config.settings import Settings
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded import server
from service.store.sessions.repair import Repair, report

TIMEOUT_S = 10.0
"""What one step may take: a step is a hundred users, and a server under load is waited for."""


def repair(settings: Settings, path: Path) -> list[str]:
    """Look at everything that is kept once, and mend what disagrees.

    Args:
        settings: the configuration.
        path: its file, beside which the embedded server keeps its data.

    Returns:
        What was done, in sentences.

    Raises:
        StoreUnavailable: Redis did not answer. What was mended stays so; running it again goes on.
        EmbeddedError: no server of this machine can read the embedded data.
    """
    with _url_of(settings, path) as url:
        return asyncio.run(_repaired(url, settings)) if url else ["nothing is kept: there is no Redis server here"]


async def _repaired(url: str, settings: Settings) -> list[str]:
    access = RedisAccess.by_url(url, TlsFiles(**settings.redis.tls.model_dump()), timeout_s=TIMEOUT_S)
    try:
        found = await Repair(access.client).run()
    finally:
        await access.close()
    lines = [line for tenant, repaired in sorted(found.items()) for line in report(tenant, repaired)]
    return lines or ["nothing is kept"]


@contextmanager
def _url_of(settings: Settings, path: Path) -> Iterator[str | None]:
    """Where the configured Redis is. The embedded server is that of a running service, else it is started for this."""
    folder = path.resolve().parent / "var" / "redis"
    if settings.redis.url != "embedded":
        yield settings.redis.url
    elif (url := server.url_of_running(folder)) is not None:
        yield url
    elif server.chosen(folder) is None:
        yield None
    else:
        with server.running(folder) as url:
            yield url
