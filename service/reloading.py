"""Following the configuration: SIGHUP, and where `server.watch_config` is on, a change of the file.

A new file is validated first. A broken one keeps the old one and says why; a good one is judged by from the
next request on, and none is dropped.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from watchfiles import awatch

from service.app import RUNTIME, Runtime
from service.config.loading import ConfigurationError, load
from service.config.settings import Settings
from service.core.tasks import keep_running, round_completed
from service.policy_factory import make_policy

log = structlog.get_logger()

LOOK_AGAIN: Any = {"yield_on_timeout": True, "rust_timeout": 5_000}
"""The file is looked at every five seconds (in milliseconds) even where the system reports no change."""
NEEDS_RESTART = ("server.host", "server.port", "server.workers", "server.watch_config", "redis")


class Reloader:
    """Reloads one file into one runtime, one reload at a time."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime
        self._began_with = runtime.settings
        self._lock = asyncio.Lock()

    @classmethod
    def follow(cls, app: web.Application, path: Path) -> None:
        """Make `app` follow `path` while it runs: on SIGHUP, and where it is to be watched when it changes."""
        app.cleanup_ctx.append(cls(path, app[RUNTIME]).run)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`."""
        tasks: set[asyncio.Task[Any]] = set()

        def begin(work: Coroutine[Any, Any, Any]) -> None:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: begin(self.reload()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a worker held it back until now
        if self._runtime.settings.server.watch_config:
            begin(keep_running("configuration watch", self.watch, self._runtime.runs))
        yield
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self) -> bool:
        """Take the file as it is now, and fetch the key sets anew. Returns whether the file was fit to be taken."""
        try:
            return await self._reload()
        finally:
            self._runtime.key_sets.refresh()  # also where the file is broken: a key may have been withdrawn

    async def _reload(self) -> bool:
        async with self._lock:
            try:
                settings = await asyncio.to_thread(load, self._path)
                policy = await asyncio.to_thread(make_policy, settings)
            except (ConfigurationError, OSError, ValueError) as error:
                mistakes = [str(mistake) for mistake in getattr(error, "mistakes", [error])]
                log.error("configuration not reloaded, the old one stays", mistakes=mistakes)
                return False
            stays = [name for name in NEEDS_RESTART if _at(settings, name) != _at(self._began_with, name)]
            self._runtime.apply(settings, policy)
            log.info("configuration reloaded", tenants=len(settings.tenants))
            if stays:
                log.warning("some changes hold after a restart only", settings=stays)
            return True

    async def watch(self) -> None:
        """Reload whenever what the file holds has changed, however it was replaced."""
        # The folder is watched, not the file: editors and Kubernetes put a new file in the old one's place.
        held = await asyncio.to_thread(self._path.read_bytes)
        # Both folders: that of the name, and that of what a link may point to now.
        async for _ in awatch(self._path.absolute().parent, self._path.resolve().parent, recursive=False, **LOOK_AGAIN):
            round_completed()
            try:
                found = await asyncio.to_thread(self._path.read_bytes)
            except OSError:
                continue
            if found != held:
                held = found
                await self.reload()


def _at(settings: Settings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
