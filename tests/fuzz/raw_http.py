"""The client's end of a connection: bytes go, and whatever comes back is held to what HTTP is."""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

STATUSES = frozenset(
    (100, 200, 201, 204, 206, 303, 304, 400, 401, 403, 404, 405, 409, 412, 413, 416, 417, 429, 431, 505)
)
"""All that the service has to say while Redis is there. No 5xx among them but 505, for another version."""
OF_A_BARE_ANSWER = frozenset((b"server", b"cache-control", b"content-length", b"content-type", b"date", b"connection"))
"""What a bare status may say: nothing that was sent."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [A-Za-z '-]+")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_BROKEN_CHUNK = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")
_BODILESS = (100, 204, 304)


class NotHttp(AssertionError):
    """What came back is no answer."""


@dataclass(frozen=True)
class Answer:
    """An answer that is well-formed."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


def answers_in(data: bytes, *, whole: bool = True) -> list[Answer]:
    """All answers of a connection, each of them held to its form.

    Args:
        data: everything that came.
        whole: the server ended it in good order, so the last one is complete.

    Raises:
        NotHttp: one is malformed, or says what no answer may say.
    """
    found: list[Answer] = []
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            _unless(not whole, "a head that breaks off", data[at:])
            return found
        status, fields = _head(data[at:end])
        _hold_to_ours(status, fields, data[at:end])
        body, at = _body(data, end + 4, status, fields, whole=whole)
        if body is None:
            return found
        _hold_to_json(fields, body)
        found.append(Answer(status, fields, body))
    return found


def _head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    said = _STATUS_LINE.fullmatch(first)
    if said is None:
        _never("no status line", head)
    fields: dict[bytes, bytes] = {}
    for line in lines:
        one = _FIELD.fullmatch(line)
        if one is None:
            _never(f"no field: {line!r}", head)
        name = one[1].lower()
        _unless(name not in fields or name in (b"set-cookie", b"vary"), f"{name!r} is repeated", head)
        fields[name] = one[2]
    return int(said[1]), fields


def _body(data: bytes, at: int, status: int, fields: dict[bytes, bytes], *, whole: bool) -> tuple[bytes | None, int]:
    """The body that begins at `at`, and where the next answer does; None for one that broke off."""
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if status in _BODILESS:
        _unless(coding is None and length in (None, b"0"), "a body where there is none", data[at - 200 : at])
        return b"", at
    _unless(length is None or coding is None, "it has two lengths", data[at - 200 : at])
    if coding is None and (data.startswith(b"HTTP/1.", at) or (at == len(data) and whole)):
        return b"", at  # the answer to a HEAD; no body of ours begins like that
    if length is not None:
        body = data[at : at + int(length)]
        _unless(len(body) == int(length) or not whole, "a body that breaks off", body)
        return (body if len(body) == int(length) else None), at + int(length)
    parts = []
    while (size := _CHUNK.match(data, at)) is not None:
        at, many = size.end(), int(size[1], 16)
        part, ends = data[at : at + many], data[at + many : at + many + 2]
        _unless(ends == b"\r\n" or (not whole and b"\r\n".startswith(ends)), "a chunk that breaks off", data[at:])
        parts.append(part)
        at += many + 2
        if many == 0:
            return b"".join(parts), at
    _unless(not whole and _BROKEN_CHUNK.fullmatch(data, at) is not None, "no chunk", data[at:])
    return None, at


def _hold_to_ours(status: int, fields: dict[bytes, bytes], head: bytes) -> None:
    _unless(status in STATUSES, f"{status} is not ours to say", head)
    if status == 100:
        return
    _unless(fields.get(b"server") == b"rollcall", "it does not say who it is", head)
    if b"x-request-id" not in fields:
        _unless(status in (400, 417, 431, 505) and fields.get(b"content-length") == b"0", "it has no request id", head)
        _unless(fields.keys() <= OF_A_BARE_ANSWER, "a bare status says more", head)


def _hold_to_json(fields: dict[bytes, bytes], body: bytes) -> None:
    if body and fields.get(b"content-type", b"").startswith(b"application/json"):
        try:
            json.loads(body)
        except ValueError:
            _never("its JSON is none", body)


def _unless(so: bool, what: str, data: bytes) -> None:
    if not so:
        _never(what, data)


def _never(what: str, data: bytes) -> NoReturn:
    raise NotHttp(f"{what}: {data[:1000]!r}")


@dataclass
class Outcome:
    """What came of a connection."""

    data: bytes = b""
    reset: bool = False
    """It was reset, so what was on its way is lost."""
    stuck: bool = False
    """The server waited for more than was sent."""
    left_open: bool = False
    """And did so past all patience."""


@dataclass
class Plan:
    """What to do with a connection."""

    pieces: Sequence[bytes]
    """Written one by one."""
    ending: str = "wait"
    """Then: `wait` for the server to end it, `half` close at once, `abort`, or `listen` a moment and abort."""
    paced: bool = False
    """Each once something came back for the one before. What cannot be parsed takes with it, unanswered, what was read
    together with it."""
    patience_s: float | None = None
    """How long to leave it open where the server waits for more; None: half-close it then."""


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        self._heard.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)
        self._heard.set()

    async def hear(self) -> None:
        """Wait a little for the next of what comes."""
        self._heard.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PACE_S):
                await self._heard.wait()

    async def end_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self.ended], timeout=seconds)
        return bool(done)


PACE_S, LISTEN_S = 0.5, 0.3
QUIET_S = 1.0
"""Nothing came for so long: the server waits for the rest of something."""
SOON_S = 10.0
"""A connection that was half-closed is over by then; on a machine that is busy with other things, too."""


async def converse(port: int, plan: Plan) -> Outcome:
    """Carry out a plan."""
    transport, client = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", port)
    reported = Outcome()
    try:
        for piece in plan.pieces:
            if not transport.is_closing():
                transport.write(piece)
            await (client.hear() if plan.paced else asyncio.sleep(0))
        if plan.ending in ("abort", "listen"):
            await asyncio.sleep(LISTEN_S if plan.ending == "listen" else 0)
            transport.abort()
            reported.reset = True
        elif plan.ending == "half" and not transport.is_closing():
            transport.write_eof()
        await _see_it_end(transport, client, plan, reported)
        reported.reset |= client.ended.done() and client.ended.result() is not None
    finally:
        transport.abort()
    reported.data = b"".join(client.parts)
    return reported


async def _see_it_end(transport: asyncio.Transport, client: _Client, plan: Plan, reported: Outcome) -> None:
    if plan.ending != "wait":
        reported.left_open = not await client.end_within(SOON_S)
        return
    came = -1
    while len(client.parts) > came:
        came = len(client.parts)
        if await client.end_within(QUIET_S):
            return
    reported.stuck = True
    if plan.patience_s is not None:
        reported.left_open = not await client.end_within(plan.patience_s)
    elif not transport.is_closing():
        transport.write_eof()
        reported.left_open = not await client.end_within(SOON_S)
