"""A listener of the event stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse

from service.core.operator_actions import Author
from tests.conftest import Client
from tests.kit import (
    OPERATOR,
)

BY = Author("root", reason="because")
EVENTS = "/admin/v1/events?tenant=acme"
DASHBOARD_EVENTS = "/dashboard/api/events?tenant=acme"


class Stream:
    """A listener's end of the stream."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer
        self.last = ""

    async def next(self) -> tuple[str, Any]:
        """Kind and data of the next event; pings are passed over."""
        kind = data = ""
        async with asyncio.timeout(30):
            while line := (await self.answer.content.readline()).decode():
                name, _, value = line.rstrip("\r\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "id":
                    self.last = value
                elif name == "data":
                    data = value
                elif not line.strip() and data:
                    return kind, json.loads(data)
        raise EOFError

    async def transitions(self, count: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        while len(found) < count:
            kind, data = await self.next()
            assert kind == "transition", (kind, data)
            found.append((data["userId"], data["to"]))
        return found


@asynccontextmanager
async def listening(client: Client, after: str = "", at: str = EVENTS, **headers: str) -> AsyncIterator[Stream]:
    reported = {"last-event-id": after} if after else {}
    answer = await client.get(at, headers=OPERATOR | reported | headers)
    assert answer.status == 200
    stream = Stream(answer)
    kind, _ = await stream.next()
    assert kind in ("ready", "gap")
    yield stream
    answer.close()
