"""Fixtures of the store's tests."""

from collections.abc import AsyncIterator

import pytest

from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess


@pytest.fixture
async def admissions(access: RedisAccess) -> AsyncIterator[Admissions]:
    ways = access.router(timeout_s=2)
    await ways.open()
    made = Admissions(ways, SessionRules(seen_every_ms=60_000, logout_grace_ms=0))
    yield made
    await made.close()
    await ways.close()
