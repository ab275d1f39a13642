"""The event stream: events at once and in order, none missed across a reconnect; and the hour's activity."""

import asyncio
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.app import RUNTIME, make_app
from service.core.errors import StoreUnavailable
from service.core.operator_actions import Author
from service.core.session_lists import Event
from service.core.sessions import Cause
from service.core.traffic_statistics import MOST, Refused, TrafficCounters, TrafficSample
from service.policy_factory import make_policy
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded.server import find_server
from service.store.events.sign_outs import SignOuts
from service.store.events.stream import Events
from service.store.events.subscriber import MOST_WAITING, EventSubscriber, Listener
from service.store.events.traffic_statistics import HOUR_S, TrafficStatistics
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.admin.event_stream import _ping_interval_s
from service.web.app_keys import REQUEST_SERVICES
from service.web.dashboard import login
from tests.conftest import Client, MakeClient
from tests.kit import (
    OPERATOR,
    VIEWER_TOKEN,
    OurServer,
    config,
    cookie_name,
    credentials,
    needs,
    settings,
)
from tests.web.test_dashboard import log_in

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
        async with asyncio.timeout(5):
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


async def test_the_stream_begins_with_a_comment_that_says_that_it_does_not_end(client: Client) -> None:
    answer = await client.get(EVENTS, headers=OPERATOR)
    async with asyncio.timeout(5):
        assert (await answer.content.readline()).startswith(b": This stream does not end.")
        assert (await answer.content.readline()).strip() == b"", "a blank line ends the comment"
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
    async with asyncio.timeout(20):
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
        async with asyncio.timeout(5):
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
            await asyncio.wait_for(failed.wait(), 5)
        assert await stream.transitions(1) == [("a", "suspended")]


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_one_tenant_whose_stream_is_broken_silences_no_other(client: Client, access: RedisAccess) -> None:
    await access.client.set("rc:{globex}:events", "no stream")
    news = client.app[RUNTIME].subscriber
    news._listeners["globex"], news._read_to["globex"] = {Listener(None)}, "0-0"
    async with listening(client) as stream:
        await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
        assert await stream.transitions(1) == [("a", "suspended")]
    del news._listeners["globex"], news._read_to["globex"]


async def test_a_stream_ends_when_its_operator_is_removed(make_client: MakeClient, access: RedisAccess) -> None:
    client = await make_client()
    async with listening(client) as stream:
        runtime = client.app[RUNTIME]
        others = [{"name": "other", "token": "another-token", "role": "operator", "tenants": ["*"]}]
        changed = settings(admin={"tokens": others})
        runtime.apply(changed, await asyncio.to_thread(make_policy, changed))
        await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_stream_ends_without_an_event_once_its_token_is_removed(make_client: MakeClient) -> None:
    client = await make_client()
    async with listening(client) as stream:
        runtime = client.app[RUNTIME]
        others = [{"name": "other", "token": "another-token", "role": "operator", "tenants": ["*"]}]
        changed = settings(admin={"tokens": others})
        runtime.apply(changed, await asyncio.to_thread(make_policy, changed))
        with pytest.raises(EOFError):
            await stream.next()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_browsers_stream_ends_when_its_operator_signs_out_on_any_worker(make_client: MakeClient) -> None:
    client, other_worker = await make_client(), await make_client()
    cookie = {"cookie": f"{cookie_name()}={(await log_in(client)).cookies[cookie_name()].value}"}
    async with listening(client, at=DASHBOARD_EVENTS) as stream:
        await sign_out(other_worker, cookie)
        with pytest.raises(EOFError):
            await stream.next()


async def sign_out(worker: Client, cookie: dict[str, str]) -> None:
    page = await (await worker.get("/dashboard", headers=cookie)).text()
    form = {"csrf": re.findall(r'name="csrf" value="([^"]+)"', page)[0]}
    left = await worker.post("/dashboard/logout", data=form, headers=cookie, allow_redirects=False)
    assert left.status == 303


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
async def test_a_browsers_stream_that_waits_for_redis_ends_with_a_sign_out_on_another_worker(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other_worker = await make_client(), await make_client()
    cookie = {"cookie": f"{cookie_name()}={(await log_in(client)).cookies[cookie_name()].value}"}
    with monkeypatch.context() as patch:
        patch.setattr(EventSubscriber, "_begin", AsyncMock(side_effect=StoreUnavailable("away")))
        answer = await client.get(DASHBOARD_EVENTS, headers=cookie)
        await asyncio.wait_for(answer.content.readuntil(b"retry: 1000\r\n"), 30)
        await sign_out(other_worker, cookie)
    await asyncio.wait_for(answer.content.read(), 30)  # to its end


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
async def test_a_sign_out_while_redis_is_away_reaches_the_other_workers_when_it_is_back(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other_worker = await make_client(), await make_client()
    cookie = {"cookie": f"{cookie_name()}={(await log_in(client)).cookies[cookie_name()].value}"}
    async with listening(client, at=DASHBOARD_EVENTS) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(SignOuts, "_report", AsyncMock(side_effect=StoreUnavailable("away")))
            await sign_out(other_worker, cookie)
        await asyncio.wait_for(stream.answer.content.read(), 30)  # to its end


async def test_the_latest_sign_outs_are_kept_and_no_more(access: RedisAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.events.sign_outs.SIGN_OUTS_CAP", 3)
    monkeypatch.setattr("service.store.events.sign_outs.now_ms", iter(range(9)).__next__)
    one, other = SignOuts(access.client), SignOuts(access.client)
    for number in range(5):
        await one.add(f"login{number}")
    await other.read()
    for known in (one, other):
        assert [f"login{number}" in known for number in range(5)] == [False, False, True, True, True]
    assert await access.client.zcard("rc:signed-out") == 3


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_browsers_stream_ends_with_its_cookie(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await log_in(client)
    async with listening(client, at=DASHBOARD_EVENTS) as stream:
        monkeypatch.setattr(login, "MAX_AGE_S", -1)
        with pytest.raises(EOFError):
            await stream.next()


async def test_ready_carries_its_type_and_the_time_to_come_back(client: Client) -> None:
    async with client.get(EVENTS, headers=OPERATOR) as answer:
        blocks = [await answer.content.readuntil(b"\r\n\r\n") for _ in range(2)]
        assert blocks[0].startswith(b":"), "clients that take a block without data for an event get none"
        assert b'\r\nevent: ready\r\ndata: {"type": "ready"}\r\nretry: 1000\r\n\r\n' in blocks[1]


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_comments_come_at_the_interval_that_is_asked_for(client: Client) -> None:
    async with client.get(f"{EVENTS}&ping=1", headers=OPERATOR) as answer:
        for _ in range(2):
            await asyncio.wait_for(answer.content.readuntil(b": ping\r\n"), 1.5)
    for wrong in ("0", "61", "x", ""):
        assert (await client.get(f"{EVENTS}&ping={wrong}", headers=OPERATOR)).status == 400
    assert _ping_interval_s(4) < 4
    assert _ping_interval_s(None) == 15


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
    assert b"retry: 1000" in await asyncio.wait_for(answer.content.readuntil(b"retry: 1000\r\n"), 5)
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


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_listener_that_waits_for_redis_is_let_go_when_the_service_ends(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await make_client()
    services = client.app[REQUEST_SERVICES]
    monkeypatch.setattr(EventSubscriber, "_begin", AsyncMock(side_effect=StoreUnavailable("away")))
    assert not services.is_down()
    answer = await client.get(EVENTS, headers=OPERATOR)
    await answer.content.readuntil(b"retry: 1000\r\n")
    client.app[RUNTIME].subscriber.shut_down()
    assert await asyncio.wait_for(answer.content.read(), 5) == b"\r\n"


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


async def test_the_stream_ends_with_the_service(make_client: MakeClient) -> None:
    client = await make_client()
    async with listening(client) as stream:
        await client.server.close()
        with pytest.raises(EOFError):
            await stream.next()


async def test_refusals_are_reported_as_a_sample_and_counted_whole(
    make_client: MakeClient, access: RedisAccess
) -> None:
    limits = [
        {"name": "status-ip", "per": "ip", "requests": 2, "window": 60},
        {"name": "status-shadow", "per": "tenant", "requests": 1, "window": 60, "shadow": True},
    ]
    client = await make_client(limits=config()["limits"] | {"status": limits})
    async with listening(client) as stream:
        for _ in range(6):
            await client.get("/auth/status", headers=credentials("alice"))
        await client.get("/auth/status", headers=credentials("alice", ttl_s=-10))
        assert await stream.transitions(1) == [("alice", "logged_in")]
        kind, data = await stream.next()
        assert (kind, data["code"], data["operation"], data["ip"]) == (
            "refusal",
            "TOO_MANY_REQUESTS",
            "status",
            "127.0.0.1",
        )
        assert (data["count"], data["all"]) == (5, 5)
        kind, data = await stream.next()
        assert (kind, data["limit"], data["shadow"], data["count"]) == ("refusal", "status-shadow", "true", 6)
    answer = await client.get("/admin/v1/tenants/acme/activity", headers=OPERATOR)
    reported = (await answer.json())["data"]
    assert (reported["bucketSeconds"], len(reported["transitions"])) == (10, 360)
    assert (sum(reported["transitions"]), sum(reported["refusals"])) == (1, 5)
    assert sum(reported["shadowRefusals"]) == 6, "each that it would have refused"
    assert reported["addresses"] == [{"address": "127.0.0.1", "refusals": 5}]
    assert reported["shadowLimits"] == [{"limit": "status-shadow", "refusals": 6}]
    await TrafficStatistics(access.client).pour(
        "acme", TrafficSample(refusals=Counter([Refused("X", "status", "10.0.0.1")]))
    )
    samples = [event for event in await Events(access.client).latest("acme", most=9) if "code" in event.fields]
    assert len(samples) == 1, "a sample, so that refusals do not push out what happened"


async def test_an_hour_is_shown_whole_and_what_is_older_is_not(access: RedisAccess) -> None:
    now = 1_800_000_005.0
    pulses = TrafficStatistics(access.client, clock=lambda: now)
    for seconds_ago in (0, 10, HOUR_S - 20, HOUR_S + 10):
        now = 1_800_000_005.0 - seconds_ago
        pulse = TrafficCounters()
        pulse.transition("acme", 3)
        pulse.refusal("acme", Refused("FORBIDDEN", "verify", f"10.0.0.{seconds_ago % 7}"))
        await pulses.pour("acme", pulse.take()["acme"])
    now = 1_800_000_005.0
    activity = await pulses.activity("acme")
    assert activity.ends_s == 1_800_000_010
    assert [at for at, many in enumerate(activity.transitions) if many] == [1, 358, 359]
    assert sum(activity.refusals) == 3
    assert (await TrafficStatistics(access.client, clock=lambda: now).activity("globex")).addresses == []
    assert (await Events(access.client).history("acme", "nobody", most=1)).events == ()


def test_what_is_counted_is_bounded_whatever_clients_send() -> None:
    pulse = TrafficCounters()
    for number in range(3 * MOST):
        pulse.refusal("acme", Refused("FORBIDDEN", "verify", f"10.0.{number >> 8}.{number & 255}"))
    beat = pulse.take()["acme"]
    assert len(beat.refusals) == MOST + 1
    assert beat.refusals.total() == 3 * MOST
    assert pulse.take() == {}
