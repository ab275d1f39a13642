"""The least ACL in the documentation: the service does all of its work under it, and nothing else can be done."""

import ast
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp.test_utils import TestClient

from service.app import RUNTIME, make_app
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.rights import CLIENT_COMMANDS, DEPLOYMENTS, least_acl, least_sentinel_acl
from tests.conftest import Client
from tests.deployments import Node, redis_cluster, redis_sentinels, start_node
from tests.docs.acl_page import PAGE, SCRIPT_COMMANDS, page
from tests.kit import OPERATOR, ROOT, OurServer, credentials, settings, tenant
from tests.web.dashboard_pages import log_in

pytestmark = [pytest.mark.real_redis, pytest.mark.slow]
AT = "/admin/v1/tenants/acme"


def permit(node: Node, rules: list[str]) -> None:
    node.client.execute_command("ACL", "SETUSER", "rollcall", "reset", "on", ">secret", *rules)
    node.client.execute_command("ACL", "LOG", "RESET")


@pytest.fixture(params=list(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[Node], list[Node]]]:
    """A deployment whose user `rollcall` has the least ACL: its URL, its nodes, its Sentinels."""
    kind = request.param
    rules = least_acl(SCRIPT_COMMANDS, kind)
    with ExitStack() as stack:
        sentinels: list[Node] = []
        if kind == "cluster":
            cluster = stack.enter_context(redis_cluster())
            nodes, url = cluster.nodes, cluster.url.replace("://", "://rollcall:secret@")
        elif kind == "sentinel":
            watched = stack.enter_context(redis_sentinels())
            nodes, sentinels = [watched.master, watched.replica], watched.sentinels
            url = watched.url.replace("://", "://rollcall:secret@")
            url += "?sentinel_username=rollcall&sentinel_password=secret"
        else:
            nodes = [start_node(stack)]
            url = f"redis://rollcall:secret@127.0.0.1:{nodes[0].port}"
        for node in nodes:
            permit(node, rules)
        for sentinel in sentinels:
            permit(sentinel, least_sentinel_acl())
        yield url, nodes, sentinels


@asynccontextmanager
async def application(url: str) -> AsyncIterator[Client]:
    hook = {"name": "audit", "url": "http://127.0.0.1:1/", "secret": "x" * 32}
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=5)
    made = await asyncio.to_thread(make_app, settings(tenants={"acme": tenant(webhooks=[hook])}), access)
    client: Client = TestClient(OurServer(made))
    await client.start_server()
    try:
        yield client
    finally:
        await client.close()


async def use(client: Client) -> None:
    """Everything that the service does, once."""

    async def ask(method: str, path: str, expected: int = 200, **how: Any) -> Any:
        async with client.request(method, path, **how) as answer:
            assert answer.status == expected, (method, path, answer.status, await answer.text())
            return answer

    alice, bob = credentials("alice"), credentials("bob")
    for path in ("/auth/status", "/auth/logout", "/auth/status"):
        await ask("GET", path, headers=alice)
    await ask("GET", "/auth/status", 401)
    await ask("POST", "/auth/terminate", 201, headers=bob, json={"reason": "enough", "strategy": "soft"})
    for path in (AT, f"{AT}/sessions", f"{AT}/users/alice", f"{AT}/limits"):
        async with client.get(path, headers=OPERATOR) as answer:
            assert answer.status in (200, 404), path
    await ask("PUT", f"{AT}/users/alice/restrictions/pay", headers=OPERATOR, json={"until": "2099-01-01T00:00:00Z"})
    await ask("DELETE", f"{AT}/users/alice/restrictions/pay", headers=OPERATOR)
    await ask("PUT", f"{AT}/users/alice/revocation", headers=OPERATOR, json={})
    await ask("DELETE", f"{AT}/users/alice/revocation", headers=OPERATOR)
    await ask("PUT", f"{AT}/limits/logout-ip", headers=OPERATOR, json={"requests": 5, "window": 7200})
    await ask("POST", f"{AT}/limits/logout-ip/reset", headers=OPERATOR, json={"subject": "127.0.0.1"})
    await ask("DELETE", f"{AT}/limits/logout-ip", headers=OPERATOR)
    await ask("POST", f"{AT}/users/bob/reinstate", headers=OPERATOR, json={})
    await ask("POST", f"{AT}/users/alice/logout", headers=OPERATOR, json={"everywhere": True})
    await ask("DELETE", f"{AT}/users/bob", headers=OPERATOR)
    async with client.get("/admin/v1/events?tenant=acme", headers={**OPERATOR, "last-event-id": "0-0"}) as stream:
        assert await asyncio.wait_for(stream.content.readline(), 5)
    await ask("GET", "/metrics")
    assert (await log_in(client)).status == 303
    for path in ("/dashboard", "/dashboard/user?tenant=acme&user=alice", "/dashboard/rules?tenant=acme"):
        await ask("GET", path)
    runtime = client.server.app[RUNTIME]  # type: ignore[attr-defined]  # a test server's is one of an application
    await runtime.pour()
    await runtime.sweeper.sweep()
    await ask("GET", "/readyz")


async def test_the_service_does_all_of_its_work_under_the_least_acl(
    deployment: tuple[str, list[Node], list[Node]],
) -> None:
    url, nodes, sentinels = deployment
    async with application(url) as client:
        await use(client)
    for node in [*nodes, *sentinels]:
        refused = node.client.execute_command("ACL", "LOG")
        ours = [(entry["reason"], entry["object"]) for entry in refused if entry["username"] == "rollcall"]
        assert ours == [], f"refused at {node.port}"


def test_nothing_else_can_be_done_under_the_least_acl(deployment: tuple[str, list[Node], list[Node]]) -> None:
    _, nodes, _ = deployment
    for node in nodes:
        with redis.Redis(port=node.port, username="rollcall", password="secret") as client:
            for command in (
                ("FLUSHALL",),
                ("FLUSHDB",),
                ("KEYS", "*"),
                ("CONFIG", "GET", "*"),
                ("CONFIG", "SET", "dir", "/tmp"),
                ("ACL", "LIST"),
                ("SHUTDOWN",),
                ("REPLICAOF", "NO", "ONE"),
                ("MODULE", "LIST"),
                ("MONITOR",),
                ("GET", "another:key"),
                ("PUBLISH", "another:channel", "x"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


ITSELF = {"pubsub", "pipeline", "execute", "aclose", "close", "get_message", "initialize", "get_connection_kwargs"}
"""Methods of redis-py's clients that are no command, or one by another name."""
OTHER_NAMES = {"xinfo_stream": "XINFO|STREAM", "scan_iter": "SCAN", "zscan_iter": "ZSCAN", "delete": "DEL"}


def test_the_list_of_the_clients_commands_is_that_of_the_code() -> None:
    known = {name for name in dir(redis.asyncio.Redis) if not name.startswith("_")}
    found: set[str] = set()
    for path in (Path(ROOT) / "service" / "store").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in known:
                on = ast.unparse(node.func.value)
                if on in ("self._client", "pipeline") or on.endswith("access.client"):
                    name = node.func.attr
                    found.add(OTHER_NAMES.get(name, name.upper() if name not in ITSELF else ""))
    assert sorted(found - {"", "EVALSHA", "EVAL", "EXECUTE_COMMAND", "PING"}) == sorted(CLIENT_COMMANDS)


def test_the_page_is_as_the_code_would_write_it() -> None:
    assert PAGE.read_text() == page(), "run `make acl`"
