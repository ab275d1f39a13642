"""Several workers: gunicorn's master with a worker class of its own, with one configuration and one log.

The master owns the embedded Redis and the listening socket, replaces a worker that dies, and serves nothing itself.
"""

import asyncio
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
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
from service.app import RUNTIME, make_app
from service.config.loading import ConfigurationError, fingerprint
from service.config.settings import Settings
from service.policy_factory import make_policy
from service.process import signals
from service.process.listeners import Listeners
from service.process.machine import folder_in_memory
from service.process.reloading import MERGE_S, Reloader
from service.process.systemd import Notifier
from service.process.worker_reports import LISTENING, WorkerReports
from service.store.connection.client import RedisAccess
from service.web.monitoring.metrics import share_metrics
from service.web.policy import Policy
from service.web.server.http_server import CLOSE_S, HttpServer, spare_the_collector

log = structlog.get_logger()

LOOK_FOR_MASTER_EVERY_S = 1.0


def serve_with_workers(
    settings: Settings,
    path: Path,
    read_from: bytes,
    listeners: Listeners,
    open_redis: Callable[[], RedisAccess],
    on_listening: Callable[[], None],
    notifier: Notifier,
    read: Callable[[Path], Settings],
) -> int:
    """Serve on `listeners` with `server.workers` processes until SIGTERM or SIGINT; returns the exit code.

    Args:
        settings: as the master validated them; a worker reads the file anew only if it has changed since.
        path: the configuration file.
        read_from: the fingerprint of the file that the settings were read from.
        listeners: bound; the master closes them when it ends.
        open_redis: opens access to Redis; called in each worker.
        on_listening: called once all workers take connections.
        notifier: for the service manager.
        read: reads and checks the file anew.

    Raises:
        UnfitMachine: there is no folder for what the workers share.
    """
    with folder_in_memory() as folder:
        try:
            made = Configuration(settings, make_policy(settings), read_from)
            spare_the_collector()  # shared memory stays unchanged, and is not copied to each worker
            application = _Application(made, path, open_redis, folder, read)
            _Arbiter(application, listeners, on_listening, notifier).run()
        except SystemExit as end:
            log.info("ended")
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
        open_redis: Callable[[], RedisAccess],
        folder: Path,
        read: Callable[[Path], Settings],
    ) -> None:
        self.configuration, self.path, self.open_redis, self.folder = configuration, path, open_redis, folder
        self.read = read
        self.reports = WorkerReports()
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's settings; nothing outside can change them."""
        chosen = {
            "workers": self.configuration.settings.server.workers,
            "worker_class": "service.process.workers.Worker",
            "worker_tmp_dir": str(self.folder),  # gunicorn would take /tmp, which may be read-only
            "logger_class": _Log,
            "control_socket_disable": True,
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
        Reloader.follow(app, self.path, made.read_from, self.reports, self.read)
        return HttpServer(app)

    def _current(self) -> Configuration:
        """The configuration as it is now: the master's, unless the file has changed since (`server.watch_config`)."""
        read_from = fingerprint(self.path)
        if read_from == self.configuration.read_from:
            return self.configuration
        try:
            settings = self.read(self.path)
        except ConfigurationError as error:  # broken meanwhile: a replaced worker starts all the same
            log.error("configuration not read, the one before stays", mistakes=[str(one) for one in error.mistakes])
            return self.configuration
        return Configuration(settings, make_policy(settings), read_from)


def _forget_worker(pid: int, folder: Path) -> None:
    """Remove the gauges of a worker that has ended; its counters stay in the sums."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Gunicorn's master. Signals mean what they mean to a single process (see `signals.py`)."""

    def __init__(
        self, application: _Application, listeners: Listeners, on_listening: Callable[[], None], notifier: Notifier
    ) -> None:
        super().__init__(application)
        self.LISTENERS = list(listeners.sockets)  # gunicorn opens none then
        self.systemd = listeners.are_handed_over  # the path of a unix socket is not removed then
        self._on_listening: Callable[[], None] | None = on_listening
        self._notifier = notifier
        self._listening: set[int] = set()
        """Workers that take connections."""
        self._reloading: set[int] = set()
        """Workers that have not reloaded yet."""
        self._is_reloading = False
        self._reload_asked = False
        self._reloaded_at_s = -MERGE_S

    def init_signals(self) -> None:
        """Queue signals, also a SIGHUP that came while the service started."""
        super().init_signals()
        signals.ignore(*signals.IGNORED)
        signals.accept_reloads()

    def handle_term(self) -> None:
        """End once the workers have drained. Further signals change nothing; gunicorn would cut the workers short."""
        signals.ignore(*signals.ENDING, signal.SIGHUP)
        self._notifier.stopping()
        drain_s = self.app.configuration.settings.server.drain
        log.info("draining", seconds=drain_s)
        self.cfg.set("graceful_timeout", drain_s + math.ceil(CLOSE_S))
        super().handle_term()

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
        self._read_reports()
        self._reload_if_due()

    def _read_reports(self) -> None:
        for pid, report in self.app.reports.read():
            if report == LISTENING:
                self._listening.add(pid)
            else:
                self._reloading.discard(pid)
        self._listening &= self.WORKERS.keys()
        self._reloading &= self.WORKERS.keys()  # one that has ended is replaced, and reads the file as it is now
        if self._is_reloading and not self._reloading:
            self._is_reloading = False
            self._notifier.ready()
        if self._on_listening is not None and len(self._listening) >= self.num_workers:
            self._on_listening()
            self._on_listening = None

    def _reload_if_due(self) -> None:
        """Validate first, then let the workers reload in place."""
        if not self._reload_asked or time.monotonic() - self._reloaded_at_s < MERGE_S:
            return
        self._reload_asked, self._reloaded_at_s = False, time.monotonic()
        self._notifier.reloading()
        path = self.app.path
        try:
            read_from, settings = fingerprint(path), self.app.read(path)
            self.app.configuration = Configuration(settings, make_policy(settings), read_from)
        except (ConfigurationError, OSError, ValueError) as error:
            mistakes = [str(mistake) for mistake in getattr(error, "mistakes", [error])]
            log.error("configuration not reloaded, the old one stays", mistakes=mistakes)
        self._is_reloading, self._reloading = True, set(self.WORKERS)
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
        self.app.reports.listening()
        alone = asyncio.Event()
        watching = asyncio.create_task(self._watch(stop, alone))
        await stop.wait()
        server.announce_end()
        with suppress(TimeoutError):
            # Without a master the next one may be starting: it needs the port, and the data folder.
            async with asyncio.timeout(server.runner.app[RUNTIME].settings.server.drain):
                await alone.wait()
        await server.close()
        watching.cancel()

    async def _watch(self, stop: asyncio.Event, alone: asyncio.Event) -> None:
        """Show the master that the worker is alive, and have it stop once the master is gone or has said so."""
        while True:
            self.notify()
            if self.ppid != os.getppid():
                alone.set()
            if alone.is_set() or not self.alive:
                stop.set()
            await asyncio.sleep(LOOK_FOR_MASTER_EVERY_S)


def _end_after(master: int) -> None:
    """End this worker soon after its master is gone. It drains by itself then (it looks once a second);
    one that cannot would keep the port and the data folder from the next start.
    """
    while os.getppid() == master:
        time.sleep(LOOK_FOR_MASTER_EVERY_S)
    time.sleep(CLOSE_S + 2 * LOOK_FOR_MASTER_EVERY_S)
    os._exit(1)


class _Log(Logger):  # type: ignore[misc]
    """Writes gunicorn's messages to the service's log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
