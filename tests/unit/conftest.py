"""Fixtures of the unit tests: an issuer with its key set, and an environment without settings."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.background import key_set_fetching, key_set_refresh
from service.background.key_set_refresh import RemoteKeySets, Source
from service.core.tokens.verification import KeyRing
from tests.unit.issuer import RS256, Issuer, Subscription


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    # A request that gives up after a second goes on with the keys from before. A busy machine may need as long.
    monkeypatch.setattr(key_set_refresh, "WAIT_S", 30.0)
    monkeypatch.setattr(key_set_fetching, "TIMEOUT_S", 30.0)
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/jwks"))
        yield made
        if made.slow is not None:
            made.slow.set()


@pytest.fixture
async def follow(issuer: Issuer) -> AsyncIterator[Callable[[], tuple[RemoteKeySets, KeyRing]]]:
    tasks: list[asyncio.Task[None]] = []

    def follow() -> tuple[RemoteKeySets, KeyRing]:
        sets, ring = RemoteKeySets(), KeyRing("acme", [])
        sets.follow([(Source(issuer.url, RS256), ring)])
        tasks.append(asyncio.create_task(sets.run_forever()))
        return sets, ring

    yield follow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def following(issuer: Issuer) -> AsyncIterator[Subscription]:
    made = Subscription(issuer, 3600)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SERVICE__")]:
        monkeypatch.delenv(name)
