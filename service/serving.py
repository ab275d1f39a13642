"""Serving: the Redis that the configuration names, the event loop, signals, and an end that drains."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from aiohttp import web
from uvloop import run as run_loop

from service import logs
from service.app import RUNTIME, make_app
from service.configuration import ConfigurationError, load
from service.reload import Reloader
from service.settings import Settings
from service.store import embedded
from service.store.connection import RedisAccess, TlsFiles
from service.web.server import OPTIONS, Runner

log = structlog.get_logger()

GC_EVERY = 20_000
"""Objects, net, between collections: requests leave no cycles behind, and those under way are many."""
EXIT_CANNOT_LISTEN = 1
EXIT_CONFIGURATION = 2


def serve(path: Path, on_listening: Callable[[Settings], None]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0, 1 (cannot listen) or 2 (configuration).

    Args:
        path: the configuration file.
        on_listening: called once requests are answered.
    """
    logs.configure()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the loop listens: an end in good order
    try:
        settings = load(path)
        with redis_of(settings, path) as access:
            return run_loop(_serve(make_app(settings, access), path, on_listening))
    except (ConfigurationError, embedded.EmbeddedError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION


@contextmanager
def redis_of(settings: Settings, path: Path) -> Iterator[RedisAccess]:
    """The way to the Redis of `redis.url`; for `embedded`, the server itself for as long."""
    if settings.redis.url != "embedded":
        yield RedisAccess.by_url(settings.redis.url, TlsFiles(**settings.redis.tls.model_dump()))
    elif embedded.find_server() is None:
        log.warning(
            "no Redis server on this machine: everything is kept inside this process and lost when it ends; "
            "install the package redis-server (or valkey), or set redis.url"
        )
        yield RedisAccess.in_process()
    else:
        with embedded.running(path.resolve().parent / "var" / "redis") as url:
            yield RedisAccess.by_url(url, TlsFiles())


async def _serve(app: web.Application, path: Path, on_listening: Callable[[Settings], None]) -> int:
    settings = app[RUNTIME].settings
    runner = Runner(app, **OPTIONS)
    reloader = Reloader(path, app[RUNTIME])
    stop = asyncio.Event()
    background: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task = asyncio.create_task(reloader.reload())
        background.add(task)
        task.add_done_callback(background.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    for ends in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ends, stop.set)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.server.host, settings.server.port, backlog=1024).start()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        print(
            f"cannot listen on {settings.server.host}:{settings.server.port}: {why}; see server.host and server.port",
            file=sys.stderr,
        )
        await runner.cleanup()
        return EXIT_CANNOT_LISTEN
    if settings.server.watch_config:
        background.add(asyncio.create_task(reloader.watch()))
    log.info("listening", host=settings.server.host, port=settings.server.port)
    on_listening(settings)
    gc.collect()
    gc.freeze()  # what was made so far stays until the end: no collection need look at it
    gc.set_threshold(GC_EVERY)
    await stop.wait()
    log.info("draining")
    for task in background:
        task.cancel()
    await runner.cleanup()
    log.info("ended")
    return 0
