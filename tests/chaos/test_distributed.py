"""Two workers over every kind of deployment: exact limits, and what a failover or a moved slot costs."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any

import aiohttp
import pytest

from tests.conftest import Start
from tests.deployments import Cluster, redis_cluster, redis_sentinels
from tests.kit import PASSIVE, Service, config, credentials, redis_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
REQUESTS = 30


def settings_for(url: str, *, requests: int = REQUESTS, window: int = 3600) -> dict[str, Any]:
    limits = {"logout": [{"name": "logout-ip", "per": "ip", "requests": requests, "window": window}], "status": []}
    return config(server={"workers": 2}, redis={"url": url, "timeout": 1.0}, limits=limits)


def at_once(service: Service, count: int) -> Counter[int]:
    """So many logouts at the same moment, counted by status."""

    async def ask() -> Counter[int]:
        connector = aiohttp.TCPConnector(limit=200)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}", connector=connector) as session:

            async def one() -> int:
                async with session.get("/auth/logout", headers=credentials()) as answer:
                    return answer.status

            return Counter(await asyncio.gather(*(one() for _ in range(count))))

    return asyncio.run(ask())


@contextmanager
def steady_load(service: Service, users: int = 40) -> Iterator[tuple[Counter[int], dict[str, bool]]]:
    """Logouts and, in between, nothing else, of many users for as long as the context is open.

    Yields the answers by status, and whether each user's last logout was acknowledged.
    """
    stop, answers, acknowledged = Event(), Counter[int](), dict[str, bool]()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            user = f"user-{number % users}"
            answer = service.get("/auth/logout", credentials(user))
            answers[answer.status] += 1
            if answer.status == 503:
                assert answer.headers["Retry-After"] == "1"
            acknowledged[user] = acknowledged.get(user, False) or answer.status == 200
            number += 1

    thread = Thread(target=ask)
    thread.start()
    try:
        yield answers, acknowledged
    finally:
        stop.set()
        thread.join()


@contextmanager
def deployment(kind: str) -> Iterator[str]:
    if kind == "standalone":
        with redis_server() as url:
            yield url
    elif kind == "sentinel":
        with redis_sentinels() as sentinels:
            yield sentinels.url
    else:
        with redis_cluster() as cluster:
            yield cluster.url


@pytest.mark.parametrize("kind", ["standalone", "sentinel", "cluster"])
def test_two_workers_admit_exactly_the_limit_out_of_20_times_as_many(start: Start, kind: str) -> None:
    with deployment(kind) as url:
        service = start(settings_for(url)).wait_until_ready()
        assert at_once(service, 20 * REQUESTS) == {200: REQUESTS, 429: 19 * REQUESTS}
        service.end()


def test_a_promoted_replica_is_found_and_admits_no_more_than_was_not_replicated(start: Start) -> None:
    with redis_sentinels() as sentinels:
        service = start(settings_for(sentinels.url)).wait_until_ready()
        before = at_once(service, REQUESTS // 2)[200]
        replicated = sentinels.master.client.execute_command("WAIT", 1, 2000) == 1
        assert replicated, "what follows counts on nothing being lost"
        sentinels.master.kill()
        answers = Counter[int]()

        def admitted_again() -> bool:
            answers.update(at_once(service, 20))
            return answers[200] > 0

        wait_for(admitted_again, within_s=30)
        answers.update(at_once(service, 20 * REQUESTS))
        assert set(answers) <= {200, 429, 503}
        assert before + answers[200] == REQUESTS
        assert sentinels.master_port() == sentinels.replica.port
        service.end()


def test_a_cluster_that_loses_a_master_serves_on_with_its_replica(start: Start) -> None:
    with redis_cluster(replicas=1) as cluster:
        service = start(settings_for(cluster.url, requests=100_000)).wait_until_ready()
        owner = cluster.owner_of("rc:{acme}:")
        with steady_load(service) as (answers, acknowledged):
            wait_for(lambda: answers[200] > 50)
            wait_for(lambda: owner.client.execute_command("WAIT", 1, 2000) == 1, within_s=30)  # the replica is in step
            owner.kill()
            seen = answers[200]
            wait_for(lambda: answers[200] > seen + 100, within_s=30)
        assert set(answers) <= {200, 503}

        def both_workers_know() -> bool:  # each learns by itself who is master now
            return {service.get("/auth/status", credentials() | PASSIVE).status for _ in range(20)} == {200}

        wait_for(both_workers_know)
        for user in acknowledged:
            assert service.get("/auth/status", credentials(user) | PASSIVE).data["status"] == "logged_out"
        service.end()


def _reached(answers: Counter[int], enough: int) -> bool:
    return answers[200] > enough


def move_slot(cluster: Cluster, key: str) -> None:
    """Move the slot of `key` to the next master, key by key, as redis-cli's reshard does."""
    source = cluster.owner_of(key)
    target = cluster.nodes[(cluster.nodes.index(source) + 1) % 3]
    slot = source.client.execute_command("CLUSTER KEYSLOT", key)
    source_id, target_id = (node.client.execute_command("CLUSTER MYID") for node in (source, target))
    target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
    source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
    while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 5):
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *cluster.nodes):
        node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


def lose_nothing(service: Service, change: Callable[[], None], times: int) -> None:
    """Change the Cluster so often under load: what was acknowledged is there, and no answer but 200 and 503 came."""
    for _ in range(times):
        with steady_load(service) as (answers, acknowledged):
            wait_for(lambda: answers[200] > 50)
            change()
            enough = answers[200] + 50
            wait_for(partial(_reached, answers, enough), within_s=30)
        assert set(answers) <= {200, 503}
        assert all(acknowledged.values())
        for user in acknowledged:
            assert service.get("/auth/status", credentials(user) | PASSIVE).data["status"] == "logged_out"
    assert service.get("/auth/status", credentials()).data["status"] == "logged_in"
    service.end()


def test_a_slot_that_is_moved_under_load_loses_nothing_acknowledged(start: Start) -> None:
    with redis_cluster() as cluster:
        service = start(settings_for(cluster.url, requests=100_000)).wait_until_ready()
        lose_nothing(service, lambda: move_slot(cluster, "rc:{acme}:"), times=2)


def migrate_slot(cluster: Cluster, key: str) -> None:
    """Move the slot of `key` to the next master at once, as Valkey 9 can."""
    source = cluster.owner_of(key)
    target = cluster.nodes[(cluster.nodes.index(source) + 1) % 3]
    slot = source.client.execute_command("CLUSTER KEYSLOT", key)
    target_id = target.client.execute_command("CLUSTER MYID")
    source.client.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
    wait_for(lambda: cluster.owner_of(key) is target)


def test_a_slot_that_is_migrated_atomically_under_load_loses_nothing_acknowledged(start: Start) -> None:
    with redis_cluster(server="Valkey") as cluster:
        service = start(settings_for(cluster.url, requests=100_000)).wait_until_ready()
        lose_nothing(service, lambda: migrate_slot(cluster, "rc:{acme}:"), times=3)
