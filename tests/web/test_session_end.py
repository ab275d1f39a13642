"""`session_of(request).ended` in an aiohttp application: it fires on an operator's act, and costs others nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from service import middleware
from service.core.errors import UnexpectedState
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.integrations import aiohttp as integration
from service.integrations.aiohttp import (
    AdmittedSession,
    SessionEnd,
    capability,
    session_middleware,
    session_of,
    user_of,
)
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.events.subscriber import EventSubscriber
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.kit import OTHER_SECRET, OTHER_TENANT_TOKEN, config, credentials, redis_server, tenant

BY = Author("root", reason="fraud")
ISSUED_S = 1_700_000_000
ROUTES = [{"path": "/open", "open": True}, {"path": "/feed", "capability": "feed"}, {"path": "/*"}]


class Opened:
    """An application with the middleware, and the ends of the requests that are open in it."""

    def __init__(self) -> None:
        self.began: asyncio.Queue[AdmittedSession] = asyncio.Queue()
        self.ends: asyncio.Queue[tuple[str, SessionEnd]] = asyncio.Queue()
        self.client: TestClient[Any, Any]
        self.may_ask = asyncio.Event()
        self.may_ask.set()
        self.pending: set[asyncio.Task[Any]] = set()
        self.futures: list[asyncio.Future[SessionEnd]] = []

    async def wait(self, request: web.Request) -> web.Response:
        """Wait for the end of the session."""
        session, caller = session_of(request), user_of(request)
        assert session is not None
        assert caller is not None
        self.began.put_nowait(session)
        await self.may_ask.wait()
        end = await session.ended
        self.ends.put_nowait((caller.identity.user, end))
        return web.json_response({"cause": end.cause})

    async def open(self, path: str = "/feed", user: str = "alice", **how: Any) -> asyncio.Task[Any]:
        """Begin a request, and return once its handler runs."""
        asked = asyncio.create_task(self._get(path, credentials(user, **{"iat": ISSUED_S, **how})))
        self.pending.add(asked)
        async with asyncio.timeout(30):
            await self.began.get()
        return asked

    async def _get(self, path: str, headers: dict[str, str]) -> Any:
        async with self.client.get(path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def next_end(self) -> tuple[str, SessionEnd]:
        async with asyncio.timeout(30):
            return await self.ends.get()


@pytest.fixture
async def opened(access: RedisAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    @contextmanager
    def redis_of(*_: Any) -> Iterator[tuple[Callable[[], RedisAccess], bool]]:
        yield lambda: access, True

    monkeypatch.setattr(integration, "redis_of", redis_of)
    async with application(tmp_path, {"timeout": 5}) as made:
        yield made


@asynccontextmanager
async def application(folder: Path, redis: dict[str, Any]) -> AsyncIterator[Opened]:
    path = folder / "config.yaml"
    tenants = {"acme": tenant(routes=ROUTES), "globex": tenant(OTHER_SECRET, OTHER_TENANT_TOKEN)}
    path.write_text(json.dumps(config(redis=redis, tenants=tenants)))
    made = Opened()

    @capability("pay")
    async def pay(request: web.Request) -> web.Response:
        return await made.wait(request)

    async def anyone(request: web.Request) -> web.Response:
        return web.json_response({"session": session_of(request) is not None})

    async def at_once(request: web.Request) -> web.Response:
        session = session_of(request)
        assert session is not None
        made.began.put_nowait(session)
        return web.json_response({})

    async def looks(request: web.Request) -> web.Response:
        session = session_of(request)
        assert session is not None
        made.futures += [session.ended, session.ended]
        return web.json_response({})

    app = web.Application()
    app.middlewares.append(await asyncio.to_thread(session_middleware, app, path))
    app.router.add_get("/feed", made.wait)
    app.router.add_get("/pay", pay)
    app.router.add_get("/open", anyone)
    app.router.add_get("/quick", at_once)
    app.router.add_get("/looks", looks)
    async with TestClient(TestServer(app)) as client:
        made.client = client
        yield made
        for task in made.pending:
            task.cancel()
        await asyncio.gather(*made.pending, return_exceptions=True)


Act = Callable[[RedisOperatorActions], Awaitable[Any]]
ACTS: dict[str, tuple[Act, str]] = {
    "suspend": (lambda acts: acts.act("acme", ["alice"], Cause.SUSPEND, BY), "suspended"),
    "terminate": (lambda acts: acts.act("acme", ["alice"], Cause.TERMINATE, BY), "terminated"),
    "by the user itself": (lambda acts: acts.act("acme", ["alice"], Cause.OWN_SUSPEND, BY), "suspended"),
    "revoke": (lambda acts: acts.revoke("acme", "alice", BY), "revoked"),
    "revoke all of the tenant": (lambda acts: acts.revoke("acme", None, BY), "revoked"),
    "log out everywhere": (
        lambda acts: acts.act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY, everywhere=True),
        "revoked",
    ),
    "restrict": (lambda acts: acts.restrict("acme", "alice", "feed", BY), "restricted"),
    "restrict the tenant": (lambda acts: acts.restrict("acme", None, "feed", BY), "restricted"),
    "restrict from everything": (lambda acts: acts.restrict("acme", "alice", "verify", BY), "restricted"),
}


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
@pytest.mark.parametrize("name", ACTS)
async def test_an_operators_act_ends_the_session_of_the_open_request(
    opened: Opened, access: RedisAccess, name: str
) -> None:
    act, cause = ACTS[name]
    asked = await opened.open()
    await act(RedisOperatorActions(access.client))
    user, end = await opened.next_end()
    assert (user, end.cause, end.by, end.reason) in [
        ("alice", cause, "root", "fraud"),
        ("alice", cause, "", ""),  # what Redis has was read after the act
    ]
    assert await asked == (200, {"cause": cause})


@pytest.mark.parametrize("access", ["fake"], indirect=True)
@pytest.mark.parametrize("name", ACTS)
async def test_an_act_between_the_admission_and_the_question_ends_it_too(
    opened: Opened, access: RedisAccess, name: str
) -> None:
    act, cause = ACTS[name]
    opened.may_ask.clear()
    asked = await opened.open()
    await act(RedisOperatorActions(access.client))
    opened.may_ask.set()
    assert await asked == (200, {"cause": cause})


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
async def test_a_capability_that_the_handler_names_ends_with_its_restriction(
    opened: Opened, access: RedisAccess
) -> None:
    acts = RedisOperatorActions(access.client)
    paying, reading = await opened.open("/pay"), await opened.open("/feed")
    await acts.restrict("acme", "alice", "pay", BY)
    assert await paying == (200, {"cause": "restricted"})
    await acts.restrict("acme", "alice", "feed", BY)
    assert await reading == (200, {"cause": "restricted"})
    causes = [(end.cause, end.capability) for _, end in [await opened.next_end(), await opened.next_end()]]
    assert causes == [("restricted", "pay"), ("restricted", "feed")]


async def test_what_does_not_refuse_the_next_request_ends_nothing(opened: Opened, access: RedisAccess) -> None:
    """Among them are logouts: a token stays valid after them."""
    acts = RedisOperatorActions(access.client)
    asked = await opened.open()
    other = await opened.open(user="bob")
    third = await opened.open(tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET)
    await acts.act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY)
    await acts.act("acme", ["bob"], Cause.SUSPEND, BY)
    await acts.revoke("acme", "alice", BY, before_ms=(ISSUED_S - 1) * 1000)
    await acts.restrict("acme", "alice", "pay", BY)
    await acts.restore("acme", "alice", BY)
    await acts.forget("acme", "alice", BY)
    await acts.act("acme", ["alice"], Cause.SUSPEND, BY)
    assert [user for user, _ in [await opened.next_end(), await opened.next_end()]] == ["bob", "alice"]
    assert await asked == await other == (200, {"cause": "suspended"})
    assert not third.done()
    await acts.act("globex", ["alice"], Cause.TERMINATE, BY)
    assert await third == (200, {"cause": "terminated"})


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
async def test_a_suspension_that_was_lifted_before_the_request_does_not_end_it(
    opened: Opened, access: RedisAccess
) -> None:
    acts = RedisOperatorActions(access.client)
    first = await opened.open(user="bob")  # the tenant's events are followed already
    for _ in range(3):
        await acts.act("acme", ["alice"], Cause.SUSPEND, BY)
        await acts.act("acme", ["alice"], Cause.REINSTATE, BY)
    again = await opened.open()
    await acts.act("acme", ["bob"], Cause.SUSPEND, BY)
    assert await first == (200, {"cause": "suspended"})
    assert not again.done()
    await acts.act("acme", ["alice"], Cause.TERMINATE, BY)
    assert await again == (200, {"cause": "terminated"})


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_where_the_subscription_to_redis_is_lost_the_session_ends_all_the_same(
    opened: Opened, access: RedisAccess
) -> None:
    asked = await opened.open()
    await access.client.client_kill_filter(_type="pubsub")
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, BY)
    assert await asked == (200, {"cause": "suspended"})


@pytest.fixture
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.mark.real_redis
async def test_what_happened_while_redis_was_out_of_reach_ends_the_session_once_it_is_back(
    server: str, tmp_path: Path
) -> None:
    """The application reaches Redis by a link, which is taken away and put back; the operator reaches it directly."""
    place = Path(server.removeprefix("unix://"))
    link = place.with_name("link.sock")
    link.symlink_to(place)
    operator = RedisAccess.by_url(server, TlsFiles(), timeout_s=5)
    acts = RedisOperatorActions(operator.client)
    async with application(tmp_path, {"url": f"unix://{link}", "timeout": 5}) as opened:
        asked, other = await opened.open(), await opened.open(user="bob")
        link.unlink()
        for kind in ("normal", "pubsub"):
            await operator.client.client_kill_filter(_type=kind, skipme=True)
        await acts.act("acme", ["alice"], Cause.SUSPEND, BY)
        await acts.revoke("acme", "bob", BY)
        async with opened.client.get("/quick", headers=credentials("carol")) as refused:
            assert refused.status == 503
        assert not asked.done()
        link.symlink_to(place)
        assert await asked == (200, {"cause": "suspended"})
        assert await other == (200, {"cause": "revoked"})
    await operator.close()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_requests_that_do_not_ask_for_it_follow_no_events(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, followed = EventSubscriber.follow, []

    def noted(self: EventSubscriber, tenant: str, after: str | None) -> Any:
        followed.append(tenant)
        return follow(self, tenant, after)

    monkeypatch.setattr(EventSubscriber, "follow", noted)
    for _ in range(3):
        assert (await opened.client.get("/quick", headers=credentials())).status == 200
    assert followed == [], "what Redis has of users is read only where their events are followed"
    await opened.open()
    async with asyncio.timeout(30):
        while followed != ["acme"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_on_an_open_route_there_is_no_session(opened: Opened) -> None:
    async with opened.client.get("/open", headers=credentials()) as answer:
        assert await answer.json() == {"session": False}


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_once_the_handler_has_returned_there_is_nothing_to_end(opened: Opened) -> None:
    assert (await opened.client.get("/quick", headers=credentials())).status == 200
    session = await opened.began.get()
    with pytest.raises(UnexpectedState, match="has been answered"):
        _ = session.ended


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_future_that_is_pending_when_the_handler_returns_is_cancelled(opened: Opened) -> None:
    async with opened.client.get("/looks", headers=credentials()) as answer:
        assert answer.status == 200
    async with asyncio.timeout(30):
        await asyncio.wait(opened.futures)
    assert [future.cancelled() for future in opened.futures] == [True, True]


async def test_without_the_middleware_it_is_an_error() -> None:
    async def handler(request: web.Request) -> web.Response:
        with pytest.raises(UnexpectedState, match="did not see this request"):
            session_of(request)
        return web.Response(text="refused")

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client, client.get("/") as answer:
        assert await answer.text() == "refused"


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_shutdown_ends_what_is_open_and_says_that_nothing_happened_to_the_user(opened: Opened) -> None:
    await opened.open()
    closing = asyncio.create_task(opened.client.server.close())
    assert (await opened.next_end())[1] == SessionEnd(integration.EndCause.SHUTDOWN)
    async with asyncio.timeout(30):
        await closing


def test_the_former_module_has_every_name() -> None:
    assert middleware.__all__ == integration.__all__
    assert middleware.session_of is session_of
