"""The event stream: events arrive at once and in order, and none is missed across a reconnect."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.app import RUNTIME, make_app
from service.core.session_lists import Event
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded.server import find_server
from service.store.events.subscriber import MOST_WAITING, EventSubscriber, Listener
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.admin.event_stream import _ping_interval_s
from tests.conftest import Client
from tests.kit import (
    OPERATOR,
    VIEWER_TOKEN,
    OurServer,
    credentials,
    needs,
    settings,
)
from tests.web.listening import BY, EVENTS, Stream, listening


async def test_the_stream_begins_with_a_comment_that_says_that_it_does_not_end(client: Client) -> None:
    answer = await client.get(EVENTS, headers=OPERATOR)
    async with asyncio.timeout(30):
        assert (await answer.content.readline()).startswith(b": This stream does not end.")
        assert await answer.content.readline() == b"event: ready\r\n"
    answer.close()


async def test_a_transition_is_sent_as_it_happens(client: Client) -> None:
    async with listening(client) as stream:
        assert stream.answer.headers["content-type"] == "text/event-stream"
        assert stream.answer.headers["cache-control"] == "no-store"
        await client.get("/auth/status", headers=credentials("alice") | {"x-request-id": "my-1"})
        kind, data = await stream.next()
        assert kind == "transition"
        assert data.pop("at").endswith("Z")
        assert data.pop("id") == stream.last
        assert data == {
            "type": "transition",
            "userId": "alice",
            "from": "none",
            "to": "logged_in",
            "cause": "request",
            "by": "user",
            "ip": "127.0.0.1",
            "requestId": "my-1",
        }


async def test_events_come_in_order_and_of_one_tenant_alone(client: Client, access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    async with listening(client) as one, listening(client) as other:
        for number in range(5):
            await acts.act("globex", [f"g{number}"], Cause.SUSPEND, BY)
            await acts.act("acme", [f"u{number}"], Cause.SUSPEND, BY)
        await acts.restrict("acme", "u1", "pay", BY)
        expected = [(f"u{number}", "suspended") for number in range(5)]
        assert await one.transitions(5) == expected
        assert await other.transitions(5) == expected
        kind, data = await one.next()
        assert (kind, data["capability"], data["change"], data["reason"]) == ("restriction", "pay", "set", "because")


async def test_nothing_is_missed_across_a_reconnect(client: Client, access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    async with listening(client) as stream:
        before = stream.last
        await acts.act("acme", ["a"], Cause.SUSPEND, BY)
        assert await stream.transitions(1) == [("a", "suspended")]
    users = [f"u{number}" for number in range(700)]
    await acts.act("acme", users, Cause.SUSPEND, BY)
    async with listening(client, after=stream.last) as again:
        await acts.act("acme", ["z"], Cause.SUSPEND, BY)
        assert [user for user, _ in await again.transitions(701)] == [*users, "z"]
    async with listening(client, after=before) as from_before:
        assert await from_before.transitions(1) == [("a", "suspended")], "also one that saw no event yet"


async def test_what_the_capped_stream_lost_meanwhile_is_reported_as_a_gap(client: Client, access: RedisAccess) -> None:
    await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
    answer = await client.get(EVENTS, headers=OPERATOR | {"last-event-id": "1000-0"})
    stream = Stream(answer)
    assert (await stream.next())[0] == "ready"
    assert await stream.next() == ("gap", {"type": "gap", "after": "1000-0"})
    assert await stream.transitions(1) == [("a", "suspended")]
    answer.close()


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, EVENTS, 401),
        ({"authorization": f"Bearer {VIEWER_TOKEN}"}, EVENTS, 403),
        (OPERATOR, "/admin/v1/events?tenant=nobody", 404),
        (OPERATOR, "/admin/v1/events", 400),
        (OPERATOR | {"last-event-id": "yesterday"}, EVENTS, 400),
    ],
)
async def test_a_client_that_may_not_listen_gets_an_error(
    client: Client, headers: dict[str, str], path: str, status: int
) -> None:
    answer = await client.get(path, headers=headers)
    assert answer.status == status
    assert "error" in await answer.json()


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_however_many_listen_there_is_one_reader(client: Client, access: RedisAccess) -> None:
    async with asyncio.timeout(60):
        streams = [listening(client) for _ in range(40)]
        opened = [await one.__aenter__() for one in streams]
        await access.client.config_resetstat()
        await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
        for stream in opened:
            assert await stream.transitions(1) == [("a", "suspended")]
        stats = await access.client.info("commandstats")
        assert stats["cmdstat_xrange"]["calls"] <= 4
        assert len(await access.client.client_list(_type="pubsub")) == 2, "of the refusals, and of the events"
        for one in streams:
            await one.__aexit__(None, None, None)


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_a_subscription_that_redis_ends_is_made_anew_and_nothing_is_missed(
    client: Client, access: RedisAccess
) -> None:
    async with listening(client) as stream:
        await access.client.client_kill_filter(_type="pubsub")
        for number in range(3):
            await RedisOperatorActions(access.client).act("acme", [f"u{number}"], Cause.SUSPEND, BY)
        assert await stream.transitions(3) == [(f"u{number}", "suspended") for number in range(3)]
        async with asyncio.timeout(30):
            while len(await access.client.client_list(_type="pubsub")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_a_poll_that_fails_silences_nobody(
    client: Client, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def away(*_: Any) -> Any:
        failed.set()
        raise RedisTimeoutError

    async with listening(client) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(EventSubscriber, "_fetch", away)
            await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
            await asyncio.wait_for(failed.wait(), 30)
        assert await stream.transitions(1) == [("a", "suspended")]


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_one_tenant_whose_stream_is_broken_silences_no_other(client: Client, access: RedisAccess) -> None:
    await access.client.set("rc:{globex}:events", "no stream")
    subscriber = client.app[RUNTIME].subscriber
    subscriber._listeners["globex"], subscriber._read_to["globex"] = {Listener(None)}, "0-0"
    async with listening(client) as stream:
        await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
        assert await stream.transitions(1) == [("a", "suspended")]
    del subscriber._listeners["globex"], subscriber._read_to["globex"]


async def test_ready_carries_its_type_and_the_time_to_come_back(client: Client) -> None:
    async with client.get(EVENTS, headers=OPERATOR) as answer:
        block = await answer.content.readuntil(b"\r\n\r\n")
        assert b'\r\nevent: ready\r\ndata: {"type": "ready"}\r\nretry: 1000\r\nid: ' in block


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_comments_come_at_the_interval_that_is_asked_for(client: Client) -> None:
    async with client.get(f"{EVENTS}&ping=1", headers=OPERATOR) as answer:
        for _ in range(2):
            await asyncio.wait_for(answer.content.readuntil(b": ping\r\n"), 14)  # else every 15 s
    for wrong in ("0", "61", "x", ""):
        assert (await client.get(f"{EVENTS}&ping={wrong}", headers=OPERATOR)).status == 400
    assert _ping_interval_s(4) < 4
    assert _ping_interval_s(None) == 15


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_an_empty_line_ends_an_event_and_nothing_else_and_the_id_is_the_line_before_it(client: Client) -> None:
    """For clients that take every empty line for an event, or that move on with the id of an event that is cut off."""
    async with client.get(f"{EVENTS}&ping=1", headers=OPERATOR) as answer, asyncio.timeout(30):
        text = await answer.content.readuntil(b": ping\r\n")
        await client.get("/auth/status", headers=credentials("alice"))
        text += await answer.content.readuntil(b"\r\n\r\n")
    blocks = [block.split(b"\r\n") for block in text.removesuffix(b"\r\n\r\n").split(b"\r\n\r\n")]
    assert [[line for line in block if line.startswith(b"event: ")] for block in blocks] == [
        [b"event: ready"],
        [b"event: transition"],
    ]
    assert all(block[-1].startswith(b"id: ") for block in blocks)


@pytest.mark.real_redis
async def test_a_first_listener_while_redis_is_away_waits_and_gets_events_once_it_is_back() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    access = RedisAccess.by_url(f"unix://{folder}/r.sock", TlsFiles(), timeout_s=1)
    client: Client = TestClient(OurServer(await asyncio.to_thread(make_app, settings(), access)))
    await client.start_server()
    binary = await asyncio.to_thread(find_server)
    needs("a Redis server", found=binary is not None)
    answer = await client.get(EVENTS, headers=OPERATOR)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert b"retry: 1000" in await asyncio.wait_for(answer.content.readuntil(b"retry: 1000\r\n"), 30)
    command = [str(binary), "--port", "0", "--unixsocket", f"{folder}/r.sock", "--save", "", "--dir", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        assert await Stream(answer).next() == ("ready", {"type": "ready"})
    finally:
        answer.close()
        await client.close()
        process.kill()
        await process.wait()
        await asyncio.to_thread(shutil.rmtree, folder)


async def test_the_stream_has_limit_headers_like_every_answer(client: Client) -> None:
    async with listening(client) as stream:
        headers = stream.answer.headers
        assert headers["RateLimit"].startswith('"admin-ip";r=')
        assert (headers["server"], headers["cache-control"]) == ("rollcall", "no-store")


@pytest.mark.parametrize("after", ["\u0663-\u0663", "1", "1-", "-1", "1-1-1", "x", "9" * 16 + "-0"])
async def test_a_last_event_id_that_is_not_one_is_an_error(client: Client, after: str) -> None:
    answer = await client.get(EVENTS, headers=OPERATOR | {"last-event-id": after})
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("after", ["0-0", "9999999999999-0"])
async def test_an_id_that_is_not_in_the_stream_is_reported_as_a_gap_and_what_follows_is_sent(
    client: Client, access: RedisAccess, after: str
) -> None:
    acts = RedisOperatorActions(access.client)
    await acts.act("acme", ["a", "b"], Cause.SUSPEND, BY)
    await access.client.xtrim("rc:{acme}:events", maxlen=1, approximate=False)
    if after == "0-0" and "entries-added" not in await access.client.xinfo_stream("rc:{acme}:events"):
        pytest.skip("this server does not tell whether a stream was trimmed")
    answer = await client.get(EVENTS, headers=OPERATOR | {"last-event-id": after})
    stream = Stream(answer)
    assert await stream.next() == ("ready", {"type": "ready"})
    assert await stream.next() == ("gap", {"type": "gap", "after": after})
    await acts.act("acme", ["c"], Cause.SUSPEND, BY)
    reported = await stream.transitions(2 if after == "0-0" else 1)
    assert reported[-1] == ("c", "suspended")
    answer.close()


def event(number: int) -> Event:
    return Event(f"{number}-0", number, {})


async def test_a_listener_that_is_too_slow_is_dropped_and_the_others_are_not() -> None:
    slow, fast = Listener(None), Listener(None)
    for number in range(1, MOST_WAITING + 3):
        slow.hear(event(number))
        fast.hear(event(number))
        assert (await fast.next()) == event(number)
    assert (slow.dropped, fast.dropped) == (True, False)
    assert await slow.next() is None


async def test_a_listener_gets_no_event_twice() -> None:
    listener = Listener("5-0")
    for number in (4, 5, 6, 6, 7):
        listener.hear(event(number))
    listener.end()
    assert [await listener.next(), await listener.next(), await listener.next()] == [event(6), event(7), None]
