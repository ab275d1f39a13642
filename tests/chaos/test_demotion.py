"""A failover behind one address that leaves every TCP connection open: with a thousand requests a second, and for every
part of the service.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos.steady_load import SteadyLoad, serving
from tests.chaos.test_failovers import every_part, until
from tests.deployments import Node, start_node
from tests.forwarder import Forwarder, fail_over, follow
from tests.kit import OPERATOR, credentials, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
RATE = int(os.environ.get("RATE", "400"))
"""Requests a second. `RATE=1000 make test-chaos ARGS='-k demotion'` on a quiet machine shows more."""
RECOVERED_WITHIN_S = 1.5
SERVED_WITHIN_S = 0.2
"""A machine that does not serve the load in time says nothing about a failover."""


@dataclass
class Pair:
    """A primary, its replica, and the address that leads to the primary."""

    primary: Node
    replica: Node
    forwarder: Forwarder

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.forwarder.port}"

    def fail_over(self) -> None:
        fail_over(self.primary, self.replica, self.forwarder)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = start_node(stack)
        replica = start_node(stack, "--replicaof", "127.0.0.1", str(primary.port))
        wait_for(lambda: follow(replica, primary))
        yield Pair(primary, replica, stack.enter_context(Forwarder(primary).running()))


@pytest.mark.alone
def test_under_load_requests_are_refused_for_a_moment_and_every_transition_has_one_event(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it would slow down what is measured
    with serving(pair.url, ["acme"]) as service:
        load = SteadyLoad(service, ["acme"], rate=RATE)
        with load.on():
            wait_for(load.acknowledged)
            time.sleep(2)
            began = time.time()
            served = [one for one in load.acknowledged() if one.at > began - 1 and one.until - one.at < SERVED_WITHIN_S]
            if len(served) < 0.75 * RATE:
                pytest.skip(f"this machine serves {len(served)} of {RATE} requests a second before anything happens")
            pair.fail_over()
            time.sleep(4)
        ready = service.get("/readyz")
    refused = sorted(one.until for one in load.writes if one.status == 503)
    assert {one.status for one in load.writes} <= {200, 503}
    assert refused, "the demoted primary refuses what is under way"
    last = refused[-1] - began
    reported = (
        f"{len(load.writes)} requests, {len(refused)} answered 503, the last {last:.2f} s after the failover began"
    )
    assert refused[-1] - refused[0] < RECOVERED_WITHIN_S, reported
    assert last < RECOVERED_WITHIN_S, reported
    assert ready.status == 200
    there: Any = pair.replica.client
    acknowledged = load.acknowledged()
    records = there.mget([f"rc:{{acme}}:u:{one.user}" for one in acknowledged])
    lost = [one for one, record in zip(acknowledged, records, strict=True) if record[0] != "os"[one.suspends]]
    assert not lost, "suspended users stay suspended, and nothing else that was acknowledged is lost"
    transitions = Counter(fields["user"] for _, fields in there.xrange("rc:{acme}:events") if "user" in fields)
    assert transitions
    assert all(transitions[one.user] == 1 for one in acknowledged)
    assert max(transitions.values()) == 1, "what was refused has happened once, or not at all"


async def test_every_part_follows_within_a_second(pair: Pair) -> None:
    async with every_part(pair.url) as parts:
        client, runtime, users, received_at = parts.client, parts.runtime, parts.users, parts.received_at
        soon = credentials("expires", exp=int(time.time()) + 2)
        assert (await client.get("/auth/status", headers=soon)).status == 200

        await asyncio.to_thread(pair.fail_over)
        struck, swept_before = time.monotonic(), runtime.runs.at_s["sweep"]
        suspend = "/admin/v1/tenants/acme/users/s/suspend"
        while (await client.post(suspend, headers=OPERATOR, json={})).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while (await client.post("/auth/logout", headers=credentials("after"))).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while (await client.get("/readyz")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert time.monotonic() - struck < 1
        await until(lambda: {"after", "s"} <= users.keys() & received_at.keys())
        late = {part: reported["s"] - struck for part, reported in (("stream", users), ("webhook", received_at))}
        assert max(late.values()) < 2, late
        await until(lambda: runtime.runs.at_s["sweep"] > swept_before)
        await until(lambda: (pair.replica.client.get("rc:{acme}:u:expires") or "-")[0] == "e")
    assert pair.replica.client.exists("rc:{acme}:u:after", "rc:{acme}:u:s") == 2
