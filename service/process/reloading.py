"""Reloads of the configuration: on SIGHUP, and with `server.watch_config` when the file changes.

A new file is validated first. If it is broken, the old configuration stays and the log says why. Otherwise the new
configuration applies from the next request on. No request is dropped.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog
from aiohttp import web
from watchfiles import awatch

from service.app import RUNTIME, Runtime
from service.background.override_report import report_overrides
from service.config.loading import ConfigurationError, fingerprint, load
from service.config.settings import Settings
from service.core.tasks import end, keep_running, round_completed
from service.policy_factory import make_policy
from service.process import signals

log = structlog.get_logger()

LOOK_AGAIN: Any = {"yield_on_timeout": True, "rust_timeout": 5_000}
"""The file is checked every five seconds (in milliseconds) even if the system reports no change."""
ROUND_S = 5.0
MERGE_S = 3.0
"""Seconds between the beginnings of two reloads, so that a burst of signals costs two reloads."""
MAX_LINKS = 40
"""The most symbolic links, as in Linux."""
NEEDS_RESTART = ("server.host", "server.port", "server.workers", "server.watch_config", "server.base_path", "redis")


class Observer(Protocol):
    """Observes reloads."""

    def reloading(self) -> None:
        """A reload begins."""

    def ready(self) -> None:
        """It has ended, with the new file or the old one."""


class Reloader:
    """Reloads one file into one runtime, one reload at a time."""

    def __init__(
        self,
        path: Path,
        runtime: Runtime,
        read_from: bytes = b"",
        observer: Observer | None = None,
        read: Callable[[Path], Settings] = load,
    ) -> None:
        """Follow `path`.

        Args:
            path: the file.
            runtime: what a reload changes.
            read_from: the fingerprint of the file that the runtime's settings were read from.
            observer: observes reloads.
            read: reads and checks the file.
        """
        self._read = read
        self._path = path
        self._runtime = runtime
        self._observer = observer
        self._began_with = runtime.settings
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._read_from = read_from
        self._reports: set[asyncio.Task[None]] = set()

    @classmethod
    def follow(
        cls, app: web.Application, path: Path, read_from: bytes, observer: Observer, read: Callable[[Path], Settings]
    ) -> None:
        """Reload `path` while `app` runs: on SIGHUP, and when it changes if it is watched."""
        app.cleanup_ctx.append(cls(path, app[RUNTIME], read_from, observer, read).run)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Run while the application runs; for `cleanup_ctx`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        signals.accept_reloads()
        beside = {"configuration reload": self.reload_when_asked}
        if self._runtime.settings.server.watch_config:
            beside["configuration watch"] = self.watch
        runs = self._runtime.runs
        tasks = [asyncio.create_task(keep_running(name, work, runs)) for name, work in beside.items()]
        yield
        loop.remove_signal_handler(signal.SIGHUP)
        signals.ignore(signal.SIGHUP)  # its default would end the process before it has drained
        await end([*tasks, *self._reports])

    async def reload_when_asked(self) -> None:
        """Reload for each signal and each change; those that come within `MERGE_S` of a reload share the next one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._asked.wait()
            round_completed()
            if not self._asked.is_set():
                continue
            self._asked.clear()  # before the file is read: a later signal may be about a newer file
            began_s = time.monotonic()
            await self.reload()
            await asyncio.sleep(max(0.0, began_s + MERGE_S - time.monotonic()))

    async def reload(self) -> bool:
        """Apply the file as it is now, and fetch the key sets again. Returns whether the file is valid."""
        if self._observer is not None:
            self._observer.reloading()
        try:
            return await self._reload()
        finally:
            self._runtime.key_sets.refresh()  # also if the file is broken: a key may have been withdrawn
            if self._observer is not None:
                self._observer.ready()

    async def _reload(self) -> bool:
        async with self._lock:
            try:
                self._read_from = await asyncio.to_thread(fingerprint, self._path)
                settings = await asyncio.to_thread(self._read, self._path)
                policy = await asyncio.to_thread(make_policy, settings)
            except (ConfigurationError, OSError, ValueError) as error:
                mistakes = [str(mistake) for mistake in getattr(error, "mistakes", [error])]
                log.error("configuration not reloaded, the old one stays", mistakes=mistakes)
                self._runtime.metrics.note_reload(False)
                return False
            stays = [name for name in NEEDS_RESTART if _at(settings, name) != _at(self._began_with, name)]
            before = self._runtime.policy.current.directory
            self._runtime.apply(settings, policy)
            self._runtime.metrics.note_reload(True)
            report = asyncio.create_task(report_overrides(self._runtime.actions, before, policy.directory))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)
            log.info("configuration reloaded", tenants=len(settings.tenants))
            if stays:
                log.warning("some changes hold after a restart only", settings=stays)
            return True

    async def watch(self) -> None:
        """Request a reload whenever the content of the file has changed, however it was replaced."""
        while True:
            folders = await asyncio.to_thread(folders_of, self._path)
            async for _ in awatch(*folders, recursive=False, **LOOK_AGAIN):
                round_completed()
                found = await asyncio.to_thread(fingerprint, self._path)
                if found and found != self._read_from:
                    self._asked.set()
                if await asyncio.to_thread(folders_of, self._path) != folders:
                    break  # a link points elsewhere now: watch its new target


def folders_of(path: Path) -> set[Path]:
    """Return the folders in which a change may replace the file.

    Folders are watched, not the file: editors and Kubernetes put a new file in the old one's place. Where the file, or
    a folder above it, is a symbolic link, the folder that holds the link is one of them, and those of its target.
    """
    found: set[Path] = set()
    ahead, seen = [path.absolute()], set[Path]()
    while ahead and len(seen) < MAX_LINKS:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        found.add(name.parent)
        for part in (name, *name.parents):
            if part.is_symlink():
                found.add(part.parent)
                ahead.append(part.parent / part.readlink() / name.relative_to(part))
    return {folder.resolve() for folder in found if folder.is_dir()}


def _at(settings: Settings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
