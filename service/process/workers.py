"""Several workers: gunicorn's master with a worker class of its own, with one configuration and one log.

The master owns the embedded Redis and the listening socket, replaces a worker that dies, and serves nothing itself.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker as BaseWorker
from prometheus_client import multiprocess
from uvloop import run as run_loop

from service import logs
from service.app import make_app
from service.config.loading import ConfigurationError, fingerprint, load
from service.config.settings import Settings
from service.policy_factory import make_policy
from service.process import signals
from service.process.reloading import MERGE_S, Reloader
from service.store.connection.client import RedisAccess
from service.web.monitoring.metrics import share_metrics
from service.web.policy import Policy
from service.web.server.http_server import SHUTDOWN_S, HttpServer, spare_the_collector

log = structlog.get_logger()

SHARED_MEMORY = "/dev/shm"  # noqa: S108  # nosec B108  # a private folder is made in it
LOOK_FOR_MASTER_EVERY_S = 1.0
DRAIN_WITHOUT_MASTER_S = 2 * SHUTDOWN_S
"""Seconds that a worker whose master is gone may drain."""


def serve_with_workers(
    settings: Settings,
    path: Path,
    read_from: bytes,
    listeners: Sequence[socket],
    open_redis: Callable[[], RedisAccess],
    on_listening: Callable[[], None],
) -> int:
    """Serve on `listeners` with `server.workers` processes until SIGTERM or SIGINT; returns the exit code.

    Args:
        settings: as the master validated them; a worker reads the file anew only if it has changed since.
        path: the configuration file.
        read_from: the fingerprint of the file that the settings were read from.
        listeners: bound; gunicorn's from now on.
        open_redis: makes a way to Redis; called in each worker.
        on_listening: called once connections are taken.
    """
    # In memory if there is such a folder: a worker that writes to a mapped file on a full disk is killed (SIGBUS).
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="rollcall-metrics-", dir=memory) as folder:
        try:
            made = Configuration(settings, make_policy(settings), read_from)
            spare_the_collector()  # shared memory stays unchanged, and is not copied to each worker
            _Arbiter(_Application(made, path, listeners, open_redis, on_listening, Path(folder))).run()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the master has made of the configuration, once for all workers that it forks."""

    settings: Settings
    policy: Policy
    read_from: bytes
    """The fingerprint of the file."""


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The application that gunicorn runs, with its settings."""

    def __init__(
        self,
        configuration: Configuration,
        path: Path,
        listeners: Sequence[socket],
        open_redis: Callable[[], RedisAccess],
        on_listening: Callable[[], None],
        folder: Path,
    ) -> None:
        self.configuration, self.path, self.open_redis, self.folder = configuration, path, open_redis, folder
        self._listeners, self._on_listening = listeners, on_listening
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's settings; nothing outside can change them."""
        chosen = {
            "bind": [f"fd://{listener.detach()}" for listener in self._listeners],
            "workers": self.configuration.settings.server.workers,
            "worker_class": "service.process.workers.Worker",
            "logger_class": _Log,
            "backlog": 1024,
            "graceful_timeout": int(2 * SHUTDOWN_S) + 5,  # aiohttp waits for its own up to twice
            "control_socket_disable": True,
            "when_ready": lambda _: self._on_listening(),
            "child_exit": lambda _, worker: _forget_worker(worker.pid, self.folder),
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Any]:
        """Return what a worker calls for its server."""
        return self._server

    async def _server(self) -> HttpServer:
        share_metrics(self.folder)
        made = await asyncio.to_thread(self._current)
        app = await asyncio.to_thread(make_app, made.settings, self.open_redis(), made.policy)
        Reloader.follow(app, self.path, made.read_from)
        return HttpServer(app)

    def _current(self) -> Configuration:
        """The configuration as it is now: the master's, unless the file has changed since (`server.watch_config`)."""
        read_from = fingerprint(self.path)
        if read_from == self.configuration.read_from:
            return self.configuration
        try:
            settings = load(self.path)
        except ConfigurationError as error:  # broken meanwhile: a replaced worker starts all the same
            log.error("configuration not read, the one before stays", mistakes=[str(one) for one in error.mistakes])
            return self.configuration
        return Configuration(settings, make_policy(settings), read_from)


def _forget_worker(pid: int, folder: Path) -> None:
    """Remove the gauges of a worker that has ended; its counters stay in the sums."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Gunicorn's master. Signals mean what they mean to a single process (see `signals.py`)."""

    _reload_asked = False
    _reloaded_at_s = -MERGE_S

    def init_signals(self) -> None:
        """Queue signals, also a SIGHUP that came while the service started."""
        super().init_signals()
        signals.ignore(*signals.IGNORED)
        signals.accept_reloads()

    def handle_int(self) -> None:
        """End as at SIGTERM. Gunicorn would end the workers at once."""
        self.handle_term()

    def handle_quit(self) -> None:
        """End as at SIGTERM."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Reload, now or with other signals that come within the next seconds. Gunicorn's own way would end with a
        broken file.
        """
        self._reload_asked = True
        self._reload_if_due()

    def manage_workers(self) -> None:
        """Gunicorn calls this about once a second."""
        super().manage_workers()
        self._reload_if_due()

    def _reload_if_due(self) -> None:
        """Validate first, then let the workers reload in place."""
        if not self._reload_asked or time.monotonic() - self._reloaded_at_s < MERGE_S:
            return
        self._reload_asked, self._reloaded_at_s = False, time.monotonic()
        path = self.app.path
        try:
            read_from, settings = fingerprint(path), load(path)
            self.app.configuration = Configuration(settings, make_policy(settings), read_from)
        except (ConfigurationError, OSError, ValueError) as error:
            mistakes = [str(mistake) for mistake in getattr(error, "mistakes", [error])]
            log.error("configuration not reloaded, the old one stays", mistakes=mistakes)
        self.kill_workers(signal.SIGHUP)  # in any case: each worker validates by itself, and fetches its key sets anew

    def spawn_worker(self) -> int:
        """Fork a worker. It ends here, because it must not close what the master has open (the embedded Redis)."""
        with signals.held_back():
            try:
                return int(super().spawn_worker())
            except SystemExit as end:
                logs.drain()
                os._exit(int(end.code or 0))


class Worker(BaseWorker):  # type: ignore[misc]
    """One process: a front door over the listeners that the master opened."""

    def init_process(self) -> None:
        """Start. A SIGHUP that comes before the reloader listens waits for it: it may be about a newer file."""
        threading.Thread(target=_end_after, args=(self.ppid,), name="master watch", daemon=True).start()
        super().init_process()

    def init_signals(self) -> None:
        """Set this process's own handlers, and let through what ends it: the master holds that back while it forks."""
        super().init_signals()
        signals.ignore(*signals.IGNORED)
        signals.accept_ending()

    def run(self) -> None:
        """Serve until the master ends the worker, or is gone."""
        run_loop(self._serve())
        sys.exit(0)

    async def _serve(self) -> None:
        server: HttpServer = await self.wsgi()
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for ends in signals.ENDING:
            loop.add_signal_handler(ends, stop.set)
        await server.start()
        for listener in self.sockets:
            await server.listen(socket(fileno=os.dup(listener.fileno())))
        spare_the_collector()
        while self.alive and not stop.is_set() and self.ppid == os.getppid():
            self.notify()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_FOR_MASTER_EVERY_S):
                    await stop.wait()
        await server.close()


def _end_after(master: int) -> None:
    """End this worker soon after its master is gone. It drains by itself then (it looks once a second);
    one that cannot would keep the port and the data folder from the next start.
    """
    while os.getppid() == master:
        time.sleep(LOOK_FOR_MASTER_EVERY_S)
    time.sleep(DRAIN_WITHOUT_MASTER_S)
    os._exit(1)


class _Log(Logger):  # type: ignore[misc]
    """Writes gunicorn's messages to the service's log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
