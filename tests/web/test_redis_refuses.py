"""Every reason for a 503 is counted by kind, and logged once a second; what Redis refuses does not stay unsaid."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis
import structlog
from aiohttp.test_utils import TestClient

from service.app import make_app
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.pipeline import PROBE_EVERY_S
from service.web.monitoring.log_throttling import LogThrottle
from tests.conftest import Client
from tests.kit import OurServer, credentials, redis_server, settings, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.real_redis


def acl(rule: str) -> Callable[[Any], Any]:
    return lambda root: root.execute_command("ACL", "SETUSER", "svc", rule)


def limit_files(root: Any, size: int) -> None:
    """Let no file of the server grow beyond `size`, as on a full disk; -1: let them grow."""
    pid = root.info("server")["process_id"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fill_disk(root: Any) -> None:
    root.config_set("appendonly", "yes")
    wait_for(lambda: not root.info("persistence")["aof_rewrite_in_progress"])
    limit_files(root, 0)
    with suppress(redis.ResponseError):
        root.set("other", "1")  # the write that finds the disk full is still taken
    wait_for(lambda: root.info("persistence")["aof_last_write_status"] == "err")


def empty_disk(root: Any) -> None:
    limit_files(root, -1)
    wait_for(lambda: root.info("persistence")["aof_last_write_status"] == "ok")


def fail_snapshot(root: Any) -> None:
    root.config_set("save", "3600 1")
    limit_files(root, 0)
    root.bgsave()
    wait_for(lambda: root.info("persistence")["rdb_last_bgsave_status"] == "err")


def take_snapshot(root: Any) -> None:
    limit_files(root, -1)
    root.bgsave()
    wait_for(lambda: root.info("persistence")["rdb_last_bgsave_status"] == "ok")


REFUSALS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "NOPERM": (acl("-zadd"), acl("+zadd")),
    "OOM": (lambda r: r.config_set("maxmemory", "1"), lambda r: r.config_set("maxmemory", "0")),
    "READONLY": (lambda r: r.slaveof("127.0.0.1", 1), lambda r: r.slaveof()),
    "NOREPLICAS": (
        lambda r: r.config_set("min-replicas-to-write", "1"),
        lambda r: r.config_set("min-replicas-to-write", "0"),
    ),
    "MISCONF, full disk": (fill_disk, empty_disk),
    "MISCONF, failed snapshot": (fail_snapshot, take_snapshot),
}


@pytest.fixture
def server() -> Iterator[tuple[str, Any]]:
    with redis_server() as url, redis.Redis(unix_socket_path=url.removeprefix("unix://")) as root:
        root.execute_command("ACL", "SETUSER", "svc", "reset", "on", ">x", "~*", "&*", "+@all")
        yield f"{url}?username=svc&password=x", root


@asynccontextmanager
async def application(url: str, **changes: Any) -> AsyncIterator[Client]:
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=2)
    client: Client = TestClient(OurServer(await asyncio.to_thread(make_app, settings(**changes), access)))
    await client.start_server()
    yield client
    await client.close()


async def status(client: Client, path: str = "/readyz", **how: Any) -> int:
    async with client.get(path, **how) as answer:
        return answer.status


@pytest.mark.parametrize("kind", REFUSALS)
async def test_what_redis_refuses_is_counted_by_kind_and_logged_and_it_recovers(
    server: tuple[str, Any], kind: str
) -> None:
    url, root = server
    breaks, mends = REFUSALS[kind]
    kind = kind.partition(",")[0]
    async with application(url) as client:
        assert await status(client) == 200
        with structlog.testing.capture_logs() as logs:
            await asyncio.to_thread(breaks, root)
            answers = [await status(client, "/auth/logout", headers=credentials(f"u{n}")) for n in range(20)]
            async with asyncio.timeout(5):
                while not any(line["event"] == "redis did not decide" for line in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert set(answers) == {503}
        assert await status(client) == 503
        async with client.get("/metrics") as reported:
            metrics = await reported.text()
        assert f'rollcall_redis_failures_total{{kind="{kind}"}}' in metrics
        lines = [line for line in logs if line["event"] == "redis did not decide"]
        assert any(line["kind"] == kind and line["reason"] for line in lines)
        # Once a check has found what is missing, the server counts as unsuitable.
        assert sum(line["times"] for line in lines if line["kind"] in (kind, "unsuitable")) >= 3
        assert len(lines) <= 4
        await asyncio.to_thread(mends, root)
        async with asyncio.timeout(5):
            while await status(client) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await status(client, "/auth/logout", headers=credentials()) == 200


async def test_a_read_that_redis_refuses_makes_the_service_unready_until_it_is_allowed_again(
    server: tuple[str, Any],
) -> None:
    url, root = server
    async with application(url) as client:
        assert await status(client, "/auth/status", headers=credentials()) == 200
        await asyncio.to_thread(acl("-hmget"), root)
        assert await status(client, "/auth/status", headers=credentials()) == 503
        assert await status(client) == 503
        await asyncio.to_thread(acl("+hmget"), root)
        async with asyncio.timeout(5):
            while await status(client) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await status(client, "/auth/status", headers=credentials()) == 200


async def test_an_operators_act_that_redis_refuses_is_counted_too(server: tuple[str, Any]) -> None:
    url, root = server
    async with application(url) as client:
        root.set("rc:{acme}:rules:alice", "no hash")
        with structlog.testing.capture_logs() as logs:
            path = "/admin/v1/tenants/acme/users/alice/restrictions/pay"
            async with client.put(path, json={}, headers={"authorization": "Bearer operator-token-for-all"}) as answer:
                assert answer.status == 503
            async with asyncio.timeout(5):
                while not any(line["event"] == "redis did not decide" for line in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert {line["kind"] for line in logs if line["event"] == "redis did not decide"} == {"WRONGTYPE"}


async def test_a_user_who_cannot_be_read_is_an_error_of_its_own_among_many(server: tuple[str, Any]) -> None:
    url, root = server
    operator = {"authorization": "Bearer operator-token-for-all"}
    async with application(url) as client:
        root.set("rc:{acme}:u:broken", "garbage")
        path = "/admin/v1/tenants/acme/sessions/suspend"
        async with client.post(path, json={"users": ["alice", "broken", "carol"]}, headers=operator) as answer:
            results = (await answer.json())["data"]["results"]
        assert [(one["userId"], one["done"], one.get("status")) for one in results] == [
            ("alice", True, "suspended"),
            ("broken", False, None),
            ("carol", True, "suspended"),
        ]
        assert results[1]["message"] == "The record of this user cannot be read"
        assert await status(client, "/readyz") == 200
        async with client.post("/admin/v1/tenants/acme/users/broken/suspend", json={}, headers=operator) as answer:
            assert answer.status == 503


def test_a_failure_is_logged_once_for_each_kind_with_how_often() -> None:
    repeats = LogThrottle()
    for n in range(3):
        repeats.fail("OOM", f"reason {n}")
    repeats.fail("timeout", "late")
    with structlog.testing.capture_logs() as logs:
        repeats.flush()
        repeats.flush()
    reported = [(line["kind"], line["reason"], line["times"]) for line in logs]
    assert reported == [("OOM", "reason 2", 3), ("timeout", "late", 1)]


async def test_why_a_background_task_fails_is_in_the_log_and_in_a_metric(
    server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.sessions.expiry_sweep.EVERY_S", 0.05)
    url, root = server
    async with application(url) as client:
        with structlog.testing.capture_logs() as logs:
            await asyncio.to_thread(root.config_set, "maxmemory", "1")
            async with asyncio.timeout(30):
                while True:
                    async with client.get("/metrics") as reported:
                        if 'rollcall_task_failures_total{kind="OOM",task="sweep"}' in await reported.text():
                            break
                    await asyncio.sleep(0.05)
        # On a busy machine a round may have run out of time before.
        lines = [line for line in logs if line["event"] == "a background task failed" and line["task"] == "sweep"]
        assert any(line["kind"] == "OOM" and "maxmemory" in line["reason"] for line in lines)
        await asyncio.to_thread(root.config_set, "maxmemory", "0")


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind != "NOPERM"])
async def test_a_suspended_user_stays_suspended_while_redis_refuses_writes_and_afterwards(
    server: tuple[str, Any], kind: str
) -> None:
    url, root = server
    breaks, mends = REFUSALS[kind]
    operator = {"authorization": "Bearer operator-token-for-all"}
    async with application(url) as client:
        async with client.post("/admin/v1/tenants/acme/users/mallory/suspend", json={}, headers=operator) as answer:
            assert answer.status == 200
        await asyncio.to_thread(breaks, root)
        meanwhile = {await status(client, "/auth/status", headers=credentials("mallory")) for _ in range(20)}
        meanwhile |= {await status(client, "/auth/logout", headers=credentials("mallory")) for _ in range(20)}
        assert meanwhile <= {403, 503}
        assert await status(client) == 503, "the breaker is open, or a write is refused"
        await asyncio.sleep(3 * PROBE_EVERY_S)
        assert await status(client) == 503, "it stays so for as long as writes are refused"
        await asyncio.to_thread(mends, root)
        async with asyncio.timeout(5):
            while await status(client) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await status(client, "/auth/status", headers=credentials("mallory")) == 403


@pytest.mark.parametrize(
    ("url", "task"),
    [
        ("redis+sentinel://127.0.0.1:{port}/main", "sentinels"),
        ("redis+cluster://127.0.0.1:{port}", "cluster map"),
        ("redis://127.0.0.1:{port}", "redis probe"),
    ],
)
async def test_why_a_task_of_the_connections_fails_is_in_the_log_once_a_second_and_in_the_metric(
    url: str, task: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with application(url.format(port=free_port())) as client, asyncio.timeout(60):
            wanted = f'rollcall_task_failures_total{{kind="refused",task="{task}"}} '
            while True:
                async with client.get("/metrics") as reported:
                    found = [line for line in (await reported.text()).splitlines() if line.startswith(wanted)]
                if found and float(found[0].removeprefix(wanted)) >= 3:
                    break
                await asyncio.sleep(0.05)
    lines = [line for line in logs if line["event"] == "a background task failed" and line["task"] == task]
    assert lines
    assert "refused" in lines[0]["reason"] or "111" in lines[0]["reason"]
    assert all(line["times"] >= 1 for line in lines)


async def test_why_the_role_of_the_primary_cannot_be_asked_is_in_the_metric(
    server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.connection.router.WATCH_EVERY_S", 0.02)
    monkeypatch.setattr("service.store.connection.pipeline.CONNECT_S", 0.05)
    url, root = server
    async with application(url, redis={"timeout": 0.1}) as client, asyncio.timeout(60):
        await asyncio.to_thread(root.client_pause, 3000)
        while True:
            async with client.get("/metrics") as reported:
                if 'rollcall_task_failures_total{kind="timeout",task="primary"}' in await reported.text():
                    break
            await asyncio.sleep(0.05)
