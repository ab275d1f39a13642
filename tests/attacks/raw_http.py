"""Attacks travel byte for byte: a connection of their own, no client that would put them right."""

import asyncio
import json
import re
import socketserver
import threading
from collections.abc import Iterable
from contextlib import suppress

from tests.kit import Answer

Fields = Iterable[tuple[str, str]]
HANGS_AFTER_S = 5.0


async def send(port: int, raw: bytes) -> bytes:
    """All that comes back until the service hangs up. Fails where it does not.

    Args:
        port: on loopback.
        raw: what is sent; its last request asks for `connection: close`, or is refused.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            with suppress(ConnectionError):  # hung up on before all was sent
                writer.write(raw)
                while part := await reader.read(65536):
                    answer += part
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(answer)


def request(method: str, target: str, fields: Fields = (), body: bytes = b"") -> bytes:
    """A request as it is written, that asks to be hung up on."""
    own = [("host", "rollcall"), ("connection", "close"), *([("content-length", str(len(body)))] if body else [])]
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in [*own, *fields])]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


async def ask(port: int, method: str, target: str, fields: Fields = (), body: bytes = b"") -> Answer:
    """The answer to one request."""
    return _parsed(await send(port, request(method, target, fields, body)))


def _parsed(raw: bytes) -> Answer:
    head, _, content = raw.partition(b"\r\n\r\n")
    began, *lines = head.decode().split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = f"{headers[name.lower()]}\n{value}" if name.lower() in headers else value
    return Answer(int(began.split()[1]), headers, content)


async def first(port: int, raw: bytes) -> Answer:
    """The first answer to these bytes, without waiting for what comes after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            writer.write(raw)
            answer = _parsed(await reader.readuntil(b"\r\n\r\n"))
            answer.body = await reader.readexactly(int(answer.headers["content-length"]))
            return answer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def statuses(answers: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)]


def described(answer: Answer) -> str:
    """Status and code of an answer, in short."""
    try:
        code = json.loads(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return str(answer.status)
    return f"{answer.status} {code}"


class Stranger:
    """A server that nobody has a reason to ask; counts who does."""

    def __init__(self) -> None:
        self.asked = 0
        stranger = self

        class Counting(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                stranger.asked += 1

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Counting)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
