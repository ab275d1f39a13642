"""Fixtures of the tests of HTTP."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.web.server.http_server import HttpServer
from tests.conftest import Client, MakeClient
from tests.web.connections import Connect, Connection
from tests.web.receivers import MakeReceiver, Receiver
from tests.web.verifying import ROUTES, TRUSTED


@pytest.fixture
async def connect(server: HttpServer) -> AsyncIterator[Connect]:
    """Open connections to `server`, which each file defines with the settings that it needs."""
    made: list[Connection] = []
    port = server.listeners[0].sockets[0].getsockname()[1]

    async def connect() -> Connection:
        made.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
        return made[-1]

    yield connect
    for one in made:
        one.writer.close()


@pytest.fixture
async def make_receiver() -> AsyncIterator[MakeReceiver]:
    """Start receivers of webhooks; each has a URL of its own."""
    servers = []

    async def make() -> tuple[Receiver, str]:
        receiver, app = Receiver(), web.Application()
        app.router.add_post("/hook", receiver.take)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return receiver, str(server.make_url("/hook"))

    yield make
    for server in servers:
        await server.close()


@pytest.fixture
async def guarded(make_client: MakeClient) -> Client:
    """A service with rules for the requests of a trusted proxy."""
    return await make_client(server=TRUSTED, routes=ROUTES)
