"""What tests of the server's connections share. Each file has a `server` of its own, with its settings."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.web.server.http_server import HttpServer
from tests.web.test_hot_path import Connect, Connection


@pytest.fixture
async def connect(server: HttpServer) -> AsyncIterator[Connect]:
    made: list[Connection] = []
    port = server.listeners[0].sockets[0].getsockname()[1]

    async def connect() -> Connection:
        made.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
        return made[-1]

    yield connect
    for one in made:
        one.writer.close()
