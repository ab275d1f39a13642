"""Webhooks whose receiver fails: attempts, errors, messages that are set aside, and what operators do about it."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from service.background import webhook_sending
from service.background.webhook_delivery import _wait_s
from service.background.webhook_sending import read_retry_after
from service.core.webhooks import Message, Skip
from service.store.connection.client import RedisAccess
from service.store.events.webhook_state import RedisWebhookStates
from tests.conftest import MakeClient
from tests.kit import OPERATOR_TOKEN, VIEWER_TOKEN, free_port, tenant
from tests.web.receivers import SECRET, MakeReceiver, begun, hook, suspend, until_state, working


def test_waits_grow_and_are_bounded() -> None:
    assert 0.5 <= _wait_s(1) <= 1
    assert 4 <= _wait_s(4) <= 8
    assert 150 <= _wait_s(10_000) <= 300


async def test_a_receiver_that_answers_410_is_asked_no_more_until_an_operator_resumes_it(
    access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    receiver.status = 410
    states = RedisWebhookStates(access.client)
    async with working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, "a", "b")
        state = await until_state(access, "one", lambda state: state.paused)
        assert (state.name, state.error) == ("disabled", "the receiver answered 410")
    async with working(access, hook("one", url)):  # nor by the next worker
        await asyncio.sleep(0.2)
        assert receiver.asked == 1
        receiver.status = 204
        assert await states.resume("acme", "one")
        await receiver.until(lambda: len(receiver.got) == 2)
    assert receiver.users() == ["a", "b"]
    assert (await states.state("acme", "one")).name == "active"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_receiver_that_says_when_to_come_back_is_not_asked_before_not_even_by_another_worker(
    access: RedisAccess, make_receiver: MakeReceiver, status: int
) -> None:
    receiver, url = await make_receiver()
    receiver.status, receiver.headers = status, {"retry-after": "3600"}
    async with working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, "a")
        state = await until_state(access, "one", lambda state: state.attempts)
    assert state.waiting is not None
    assert 3590 < state.waiting.next_ms / 1000 - time.time() <= 3600
    async with working(access, hook("one", url)):
        await asyncio.sleep(0.2)
        assert receiver.asked == 1
        receiver.status = 204
        await RedisWebhookStates(access.client).resume("acme", "one")  # an operator may
        await receiver.until(lambda: len(receiver.got) == 1)


@pytest.mark.parametrize(
    ("sent", "expected_s"),
    [
        ("120", 120),
        ("0", 0),
        ("999999999999", 86_400),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 59),
        ("Friday, 31-Dec-99 23:59:59 GMT", 59),
        ("Fri Dec 31 23:59:59 1999", 59),
        ("Fri, 31 Dec 1999 23:58:00 GMT", 0),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_at_most_a_day(sent: str, expected_s: float) -> None:
    assert read_retry_after(sent, 946_684_740.0) == expected_s


@asynccontextmanager
async def answering(content: bytes | None, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers with these bytes, or with nothing, and stays silent where they are None."""
    handlers: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        await reader.read(1)
        if content is None:
            await reader.read()
        else:
            writer.write(content)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*handlers, return_exceptions=True)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("http://nowhere.invalid/", "the receiver's name was not resolved"),
        ("refused", "the connection was refused"),
        ("plain", "TLS failed: wrong version number"),
        ("certificate", "TLS failed: the certificate is not accepted: unable to get local issuer certificate"),
        ("closed", "the receiver closed the connection without an answer"),
        ("not http", "the receiver's answer is not HTTP"),
        ("silent", "the receiver did not answer within 10 s"),
        ("redirect", "the receiver answered 302"),
        ("http://[::1%25nowhere]:1/", "no connection: "),
    ],
)
async def test_the_error_says_what_failed(case: str, error: str) -> None:
    contents = {"closed": b"", "not http": b"220 mail\r\n\r\n", "plain": b"HTTP/1.1 204 \r\n\r\n", "silent": None}
    context = None
    if case == "certificate":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    redirect = b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"
    async with answering(contents.get(case, redirect), context) as at:
        url = case if case.startswith("http") else f"http{'s' * (case in ('plain', 'certificate'))}://user:pw@{at}/"
        if case == "refused":
            url = f"http://127.0.0.1:{free_port()}/"
        async with webhook_sending.session(timeout_s=0.3 if case == "silent" else 5) as session:
            failure = await webhook_sending.send(session, hook("one", url), Message("acme.1-0", {"type": "gap"}))
    assert failure is not None
    assert failure.error == error or (error.endswith(": ") and failure.error.startswith(error)), failure
    assert "pw" not in failure.error


async def test_an_operator_has_a_webhook_go_on_without_a_message_and_the_receiver_gets_a_gap(
    make_client: MakeClient, access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    receiver.refused = {"b"}
    webhooks = [{"name": "audit", "url": url, "secret": SECRET}]
    client = await make_client(tenants={"acme": tenant(webhooks=webhooks)})
    headers, at = {"authorization": f"Bearer {OPERATOR_TOKEN}"}, "/admin/v1/tenants/acme/webhooks/audit"
    await begun(access, "audit")
    assert (await client.post(f"{at}/skip", headers=headers)).status == 409, "nothing waits"
    await suspend(access, "a", "b", "c")
    await until_state(access, "audit", lambda state: state.attempts)
    shown = (await (await client.get(at, headers=headers)).json())["data"]
    assert (shown["state"], shown["error"]) == ("failing", "the receiver answered 400")
    waiting = shown["waiting"]
    assert waiting["message"]["data"]["userId"] == "b"
    assert (await client.post(f"{at}/skip", json={"id": "acme.1-0"}, headers=headers)).status == 409, "another waits"
    order = {"id": waiting["id"], "reason": "cannot be read there"}
    answer = await client.post(f"{at}/skip", json=order, headers=headers)
    assert (answer.status, (await answer.json())["data"]["id"]) == (200, waiting["id"])
    await receiver.until(lambda: len(receiver.got) == 3)
    assert receiver.users() == ["a", "", "c"]
    gap = json.loads(receiver.got[1][1])
    skipped = {"id": waiting["id"].removeprefix("acme."), "type": "transition"}
    assert gap["type"] == "gap"
    assert gap["data"].pop("after") == json.loads(receiver.got[0][1])["data"]["id"]
    assert gap["data"] == {
        "tenant": "acme", "cause": "skipped", "skipped": skipped, "by": "root", "reason": "cannot be read there",
    }  # fmt: skip
    shown = (await (await client.get(at, headers=headers)).json())["data"]
    [aside] = shown["setAside"]
    assert (aside["cause"], aside["by"], aside["message"]["data"]["userId"]) == ("skipped", "root", "b")
    assert shown["waiting"] is None


async def test_an_operator_pauses_and_resumes_a_webhook_and_nothing_is_lost(
    make_client: MakeClient, access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    client = await make_client(tenants={"acme": tenant(webhooks=[{"name": "audit", "url": url, "secret": SECRET}])})
    headers, at = {"authorization": f"Bearer {OPERATOR_TOKEN}"}, "/admin/v1/tenants/acme/webhooks/audit"
    await begun(access, "audit")

    async def order(name: str, **body: str) -> Any:
        return (await (await client.post(f"{at}/{name}", json=body, headers=headers)).json())["data"]["applied"]

    assert await order("pause", reason="maintenance")
    assert not await order("pause", reason="again")
    await suspend(access, "a", "b")
    await until_state(access, "audit", lambda state: state.waiting)
    shown = (await (await client.get(at, headers=headers)).json())["data"]
    assert (shown["state"], shown["paused"]["by"], shown["paused"]["reason"]) == ("paused", "root", "maintenance")
    assert (shown["waiting"]["message"]["data"]["userId"], receiver.asked) == ("a", 0)
    assert await order("resume")
    await receiver.until(lambda: len(receiver.got) == 2)
    assert receiver.users() == ["a", "b"]
    assert not await order("resume")
    for path in ("none", "none/skip", "none/pause"):
        answer = await client.request("post" if "/" in path else "get", f"{at}/../{path}", headers=headers)
        assert answer.status == 404


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_viewer_looks_and_changes_nothing(make_client: MakeClient) -> None:
    hooks = [{"name": "audit", "url": "http://127.0.0.1:1/", "secret": SECRET}]
    client = await make_client(tenants={"acme": tenant(), "globex": tenant(token="g", webhooks=hooks)})
    headers, at = {"authorization": f"Bearer {VIEWER_TOKEN}"}, "/admin/v1/tenants/globex/webhooks/audit"
    assert (await client.get(at, headers=headers)).status == 200
    for order in ("skip", "pause", "resume"):
        assert (await client.post(f"{at}/{order}", headers=headers)).status == 403


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_message_that_is_not_taken_for_give_up_after_is_set_aside_and_the_others_arrive_in_order(
    access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    receiver.refused = {"b"}
    async with working(access, hook("one", url, give_up_after_s=1)):
        await begun(access, "one")
        await suspend(access, "a", "b", "c", "d")
        await receiver.until(lambda: len(receiver.got) == 4)
    assert receiver.users() == ["a", "", "c", "d"]
    assert json.loads(receiver.got[1][1])["data"]["cause"] == "gave_up"
    [aside] = (await RedisWebhookStates(access.client).state("acme", "one")).set_aside
    assert (aside.cause, aside.error, aside.content["data"]["userId"]) == ("gave_up", "the receiver answered 400", "b")


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_gap_is_delivered_by_the_next_worker_and_one_that_is_skipped_makes_no_other(
    access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    receiver.status = 500
    states = RedisWebhookStates(access.client)
    async with working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, "a", "b")
        first = (await until_state(access, "one", lambda state: state.attempts)).waiting
        assert first is not None
        await states.skip("acme", "one", Skip(first.message_id, "root", ""))
        await until_state(access, "one", lambda state: state.gap)
    async with working(access, hook("one", url)):
        gap = (await until_state(access, "one", lambda state: state.attempts)).waiting
        assert gap is not None
        assert gap.message_id == first.message_id.replace("acme.", "acme.skipped-")
        await states.skip("acme", "one", Skip(gap.message_id, "root", ""))
        receiver.status = 204
        await receiver.until(lambda: len(receiver.got) >= 1)
    assert receiver.users()[-1] == "b"
    assert [one.message_id for one in (await states.state("acme", "one")).set_aside][-1] == first.message_id
