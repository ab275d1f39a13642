"""What ends an event stream: its operator is removed or signs out, its cookie expires, the service ends."""

import asyncio
import re
from unittest.mock import AsyncMock

import pytest

from service.app import RUNTIME
from service.core.errors import StoreUnavailable
from service.core.sessions import Cause
from service.policy_factory import make_policy
from service.store.connection.client import RedisAccess
from service.store.events.sign_outs import SignOuts
from service.store.events.subscriber import EventSubscriber
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.app_keys import REQUEST_SERVICES
from service.web.dashboard import login
from tests.conftest import Client, MakeClient
from tests.kit import (
    OPERATOR,
    cookie_name,
    settings,
)
from tests.web.dashboard_pages import log_in
from tests.web.listening import BY, DASHBOARD_EVENTS, EVENTS, listening


async def remove_the_operator(client: Client) -> None:
    """Apply a configuration that has another operator."""
    others = [{"name": "other", "token": "another-token", "role": "operator", "tenants": ["*"]}]
    changed = settings(admin={"tokens": others})
    client.app[RUNTIME].apply(changed, await asyncio.to_thread(make_policy, changed))


async def test_a_stream_ends_when_its_operator_is_removed(make_client: MakeClient, access: RedisAccess) -> None:
    client = await make_client()
    async with listening(client) as stream:
        await remove_the_operator(client)
        await RedisOperatorActions(access.client).act("acme", ["a"], Cause.SUSPEND, BY)
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_stream_ends_without_an_event_once_its_token_is_removed(make_client: MakeClient) -> None:
    client = await make_client()
    async with listening(client) as stream:
        await remove_the_operator(client)
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
    assert await asyncio.wait_for(answer.content.read(), 30) == b""


async def test_the_stream_ends_with_the_service(make_client: MakeClient) -> None:
    client = await make_client()
    async with listening(client) as stream:
        await client.server.close()
        with pytest.raises(EOFError):
            await stream.next()
