"""Fixtures of the store's tests."""

from collections.abc import AsyncIterator

import pytest

from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess


@pytest.fixture
async def admissions(access: RedisAccess) -> AsyncIterator[Admissions]:
    router = access.router(timeout_s=2)
    await router.open()
    made = Admissions(router, SessionRules(seen_every_ms=60_000, logout_grace_ms=0))
    yield made
    await made.close()
    await router.close()
