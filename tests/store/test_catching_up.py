"""What was missed while Redis was away is made up for once it is back."""

import asyncio
import gc
import weakref
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from service.core.tasks import end
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.admissions.window_retention import Retention
from service.store.connection.client import RedisAccess
from service.store.connection.router import ClusterRouter, SingleNodeRouter
from tests.store.making import ask_about, pipeline_of

WINDOWS = Mapping[tuple[str, str], int]


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_windows_that_a_restart_made_longer_are_extended_although_a_reload_came_before_redis_was_back(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention, extended, done = Retention(access.client), [], asyncio.Event()

    async def extend(windows_s: WINDOWS) -> int:
        extended.append(dict(windows_s))
        done.set()
        return 0

    monkeypatch.setattr(retention, "extend", extend)
    retention.follow({("acme", "a"): 3600, ("acme", "b"): 60})  # the start, with a longer than before
    retention.follow({("acme", "a"): 3600, ("acme", "b"): 7200})  # the reload
    working = asyncio.create_task(retention.run_forever())
    await asyncio.wait_for(done.wait(), 5)
    await end([working])
    assert extended[0] == {("acme", "a"): 3600, ("acme", "b"): 7200}


class SlotMap:
    """A Cluster's map of slots, which cannot be had at first."""

    def __init__(self) -> None:
        self.primaries: set[tuple[str, int]] = set()
        self.failure: Exception | None = None

    async def refresh(self, _: Collection[tuple[str, int]]) -> bool:
        return bool(self.primaries)

    def probe_key(self, _: tuple[str, int]) -> str:
        return "probe"

    def endpoint_of(self, _: tuple[str, int]) -> Any:
        async def connect() -> Any: ...

        return SimpleNamespace(connect=connect)


async def test_a_cluster_whose_nodes_are_all_well_is_reported_up_although_none_of_them_was_ever_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.store.connection.router.REFRESH_EVERY_S", 0)
    slots, reported, up = SlotMap(), [], asyncio.Event()

    def on_change(is_up: bool) -> None:
        reported.append(is_up)
        if is_up:
            up.set()

    async def examine(*_: Any, **__: Any) -> None: ...

    check: Any = SimpleNamespace(examine=examine, forget=lambda _: None)
    topology: Any = slots
    router = ClusterRouter(topology, timeout_s=1, check=check, on_change=on_change)
    await router.open()
    assert reported == [False]
    slots.primaries = {("127.0.0.1", 6379)}
    await asyncio.wait_for(up.wait(), 5)
    await router.close()
    assert reported == [False, True]


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_queue_of_a_node_that_left_the_cluster_is_dropped(access: RedisAccess) -> None:
    pipelines = [pipeline_of(access, timeout_s=1) for _ in range(3)]
    router = SingleNodeRouter(pipelines[0])
    admissions = Admissions(router, SessionRules(60_000, 0))
    held = [weakref.ref(one) for one in pipelines]
    for number, pipeline in enumerate(pipelines):
        router.pipeline_to = lambda _, to=pipeline: to  # type: ignore[method-assign,misc]
        await admissions.ask(ask_about(f"user{number}"))
        await admissions.close()
        await pipeline.close()
    del pipeline, pipelines, router.pipeline_to, router
    gc.collect()
    assert [one() is None for one in held] == [False, True, False], "the first is the router's, the last in use"
