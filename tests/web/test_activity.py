"""The activity of the last hour: counts of transitions and refusals, and a sample of the refusals."""

from collections import Counter

import pytest

from service.app import RUNTIME
from service.core.traffic_statistics import MOST, Refused, TrafficCounters, TrafficSample
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.events.traffic_statistics import HOUR_S, TrafficStatistics
from tests.conftest import MakeClient
from tests.kit import (
    OPERATOR,
    config,
    credentials,
)
from tests.web.listening import listening


async def test_refusals_are_reported_as_a_sample_and_counted_whole(
    make_client: MakeClient, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is counted is written when the test says so, once: a second part would be left out of the sample.
    monkeypatch.setattr("service.app.POUR_EVERY_S", 3600)
    monkeypatch.setattr("service.store.events.traffic_statistics.SAMPLE_EVERY_MS", 3_600_000)
    limits = [
        {"name": "status-ip", "per": "ip", "requests": 2, "window": 60},
        {"name": "status-shadow", "per": "tenant", "requests": 1, "window": 60, "shadow": True},
    ]
    client = await make_client(limits=config()["limits"] | {"status": limits})
    async with listening(client) as stream:
        for _ in range(6):
            await client.get("/auth/status", headers=credentials("alice"))
        await client.get("/auth/status", headers=credentials("alice", ttl_s=-10))
        await client.app[RUNTIME].pour()
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
    statistics = TrafficStatistics(access.client, clock=lambda: now)
    for seconds_ago in (0, 10, HOUR_S - 20, HOUR_S + 10):
        now = 1_800_000_005.0 - seconds_ago
        counters = TrafficCounters()
        counters.transition("acme", 3)
        counters.refusal("acme", Refused("FORBIDDEN", "verify", f"10.0.0.{seconds_ago % 7}"))
        await statistics.pour("acme", counters.take()["acme"])
    now = 1_800_000_005.0
    activity = await statistics.activity("acme")
    assert activity.ends_s == 1_800_000_010
    assert [at for at, many in enumerate(activity.transitions) if many] == [1, 358, 359]
    assert sum(activity.refusals) == 3
    assert (await TrafficStatistics(access.client, clock=lambda: now).activity("globex")).addresses == []
    assert (await Events(access.client).history("acme", "nobody", most=1)).events == ()


def test_what_is_counted_is_bounded_whatever_clients_send() -> None:
    counters = TrafficCounters()
    for number in range(3 * MOST):
        counters.refusal("acme", Refused("FORBIDDEN", "verify", f"10.0.{number >> 8}.{number & 255}"))
    sample = counters.take()["acme"]
    assert len(sample.refusals) == MOST + 1
    assert sample.refusals.total() == 3 * MOST
    assert counters.take() == {}
