"""The examples that end open connections, run as processes: with the middleware, and behind a proxy."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from examples.open_connections import api
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.docs.pages import blocks
from tests.docs.test_walk import PORTS, moved
from tests.kit import ROOT, Service, credentials, free_port, needs, redis_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
EXAMPLE = ROOT / "examples" / "open_connections"
SECRET = "demo-signing-secret-for-trying-out-only"
OPERATOR = {"authorization": "Bearer demo-operator-token"}


class Example:
    """One of the examples, as a process."""

    def __init__(self, name: str, port: int, service_port: int, redis_url: str) -> None:
        self.name = name
        self.port = port
        self.redis_url = redis_url
        self.service_port = service_port

    def headers(self, user: str) -> dict[str, str]:
        """What a request of `user` carries: its credentials, or what a proxy sets of an admitted one."""
        if self.name == "app.py":
            return credentials(user, tenant_token="demo-tenant-token", secret=SECRET, kid="demo", iat=time.time() - 10)
        return {"x-auth-tenant": "demo", "x-auth-user": user}

    def path(self, path: str) -> str:
        return path if self.name == "app.py" else f"/api{path}"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.path(path)}"

    async def act(self, user: str, act: str) -> None:
        """What an operator does, by the admin API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.service_port}/admin/v1/tenants/demo/users/{user}/{act}",
            data=b'{"reason": "fraud"}',
            headers=OPERATOR | {"content-type": "application/json"},
            method="PUT" if act == "revocation" else "POST",
        )

        def send() -> int:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)

        assert await asyncio.to_thread(send) == 200


@contextmanager
def running(example: Example, config: Path, folder: Path) -> Iterator[None]:
    """Start an example; end it while a stream is open."""
    own = {
        "app.py": ["--config", str(config)],
        "api.py": ["--rollcall", f"http://127.0.0.1:{example.service_port}"],
    }[example.name]
    log = folder / f"{example.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, f"examples/open_connections/{example.name}", "--port", str(example.port), *own],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )
        try:
            yield
            request = urllib.request.Request(example.url("/events"), headers=example.headers("who-stays"))
            with urllib.request.urlopen(request, timeout=40) as open_stream:
                assert open_stream.readline() == b'data: {"number": 1}\r\n'
                process.send_signal(signal.SIGTERM)
                assert b'{"cause": "shutdown"}' in open_stream.read()
            assert process.wait(40) == 0, "open connections do not hold up the end"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Example]]:
    """Both examples, with one Redis, and a service whose operators act. Each test has users of its own."""
    folder = tmp_path_factory.mktemp("open")
    content = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    admin = yaml.safe_load((ROOT / "examples" / "rollcall.yaml").read_text())["admin"]
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        content |= {"redis": {"url": url, "timeout": 5}}
        config = folder / "example.yaml"
        config.write_text(json.dumps(content))
        service = Service(folder, {**content, "admin": admin})
        stack.callback(service.end)
        made = {name: Example(name, free_port(), service.port, url) for name in ("app.py", "api.py")}
        for example in made.values():
            stack.enter_context(running(example, config, folder))
        service.wait_until_ready()
        for example in made.values():
            wait_for(partial(_answers, example.url("/nothing")))
        yield made


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 404
    except OSError:
        return False


@pytest.fixture(params=["app.py", "api.py"])
def example(request: pytest.FixtureRequest, examples: dict[str, Example]) -> Example:
    return examples[request.param]


class Stream:
    """A client of server-sent events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        """Return kind and data of the next event; ('', None) at the end."""
        kind, data = "", None
        async with asyncio.timeout(30):
            while line := (await self._answer.content.readline()).decode().rstrip("\r\n"):
                name, _, value = line.partition(": ")
                kind = value if name == "event" else kind
                data = json.loads(value) if name == "data" else data
        return kind, data

    async def end(self) -> Any:
        """Return the data of the last event, once the stream has ended."""
        last = None
        while (event := await self.next())[1] is not None:
            last = event
        return last


@asynccontextmanager
async def stream(client: ClientSession, example: Example, user: str) -> AsyncIterator[Stream]:
    async with client.get(example.url("/events"), headers=example.headers(user)) as answer:
        assert answer.status == 200
        made = Stream(answer)
        assert await made.next() == ("", {"number": 1})
        yield made


@asynccontextmanager
async def socket(client: ClientSession, example: Example, user: str) -> AsyncIterator[ClientWebSocketResponse]:
    async with client.ws_connect(example.url("/socket"), headers=example.headers(user)) as opened:
        await opened.send_str("hello")
        assert await opened.receive_str(timeout=30) == "you said hello"
        yield opened


@pytest.mark.parametrize(
    ("act", "cause"), [("suspend", "suspended"), ("terminate", "terminated"), ("revocation", "revo")]
)
async def test_a_stream_and_a_websocket_end_with_an_operators_act_and_those_of_another_user_do_not(
    example: Example, act: str, cause: str
) -> None:
    user, other = f"{example.name}-{act}", f"{example.name}-{act}-other"
    async with (
        ClientSession() as client,
        stream(client, example, user) as ending,
        socket(client, example, user) as closing,
        stream(client, example, other) as lasting,
        socket(client, example, other) as open_still,
    ):
        await example.act(user, act)
        kind, data = await ending.end()
        assert (kind, data["cause"][: len(cause)]) == ("ended", cause)
        message = await closing.receive(timeout=30)
        assert (message.type, message.data, str(message.extra)[: len(cause)]) == (WSMsgType.CLOSE, 1008, cause)
        first = (await lasting.next())[1]["number"]
        assert [(await lasting.next())[1]["number"] for _ in range(3)] == [first + 1, first + 2, first + 3]
        await open_still.send_str("still here")
        assert await open_still.receive_str(timeout=30) == "you said still here"


async def test_both_end_within_a_second(example: Example) -> None:
    """At least once of twenty times: a machine that stalls says nothing about the service."""
    took_s = [float("inf")]
    async with ClientSession() as client:
        for user in (f"{example.name}-fast-{number}" for number in range(20)):
            async with stream(client, example, user) as ending, socket(client, example, user) as closing:
                began = time.monotonic()
                await asyncio.gather(example.act(user, "suspend"), ending.end(), closing.receive(timeout=30))
                took_s.append(time.monotonic() - began)
            if min(took_s) < 1:
                break
    assert min(took_s) < 1, took_s


async def _cut_off(example: Example, path: str, fields: dict[str, str]) -> None:
    """Open a connection that never answers, and return once the server has ended it."""
    user = f"{example.name}-silent"
    lines = [f"{name}: {value}" for name, value in {**example.headers(user), **fields, "host": "x"}.items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", example.port)
    try:
        writer.write("\r\n".join([f"GET {example.path(path)} HTTP/1.1", *lines, "", ""]).encode())
        async with asyncio.timeout(30):
            await reader.readuntil(b"\r\n\r\n")
        await example.act(user, "suspend")
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                while await reader.read(65536):
                    pass
    finally:
        writer.close()


async def test_a_websocket_whose_client_does_not_answer_the_close_is_cut_off(example: Example) -> None:
    fields = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    await _cut_off(example, "/socket", fields)


async def test_a_user_who_is_suspended_cannot_open_them_again_and_a_reinstated_one_can(
    examples: dict[str, Example],
) -> None:
    example = examples["app.py"]
    async with ClientSession() as client:
        async with stream(client, example, "reinstated") as ending:
            await example.act("reinstated", "suspend")
            await ending.end()
        async with client.get(example.url("/events"), headers=example.headers("reinstated")) as refused:
            assert refused.status == 403
        await example.act("reinstated", "reinstate")
        async with stream(client, example, "reinstated") as again:
            assert (await again.next())[1] == {"number": 2}


def heard(sessions: api.Sessions, *events: tuple[str, dict[str, str]]) -> None:
    for kind, event in events:
        sessions.hear(kind, event)


async def test_the_client_of_the_event_stream_ends_what_each_event_asks_for() -> None:
    sessions = api.Sessions("http://127.0.0.1:9", "token", "demo")
    heard(sessions, ("ready", {}))
    sessions._lately.clear()
    alice, bob = sessions.open("alice"), sessions.open("bob")
    heard(
        sessions,
        ("transition", {"userId": "alice", "to": "logged_out"}),
        ("revocation", {"userId": "alice", "change": "lifted"}),
        ("limit", {"change": "set"}),
        ("ready", {}),
    )
    assert not alice.done()
    heard(sessions, ("transition", {"userId": "alice", "to": "suspended"}))
    assert (alice.result(), bob.done()) == ("suspended", False)
    assert sessions.open("alice").result() == "suspended", "admitted before, and opened after"
    heard(sessions, ("revocation", {"change": "set"}))
    assert bob.result() == "revocation"


async def test_after_a_gap_and_when_it_begins_late_every_connection_ends_so_that_rollcall_decides_anew() -> None:
    sessions = api.Sessions("http://127.0.0.1:9", "token", "demo")
    early = sessions.open("alice")
    heard(sessions, ("ready", {}))
    assert early.result() == "events were missed"
    sessions._lately.clear()
    later = sessions.open("alice")
    heard(sessions, ("gap", {"after": "1-0"}))
    assert later.result() == "events were missed"


async def test_an_end_is_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = api.Sessions("http://127.0.0.1:9", "token", "demo")
    heard(sessions, ("transition", {"userId": "alice", "to": "suspended"}))
    monkeypatch.setattr(api, "REMEMBERED_S", -1.0)
    assert not sessions.open("alice").done()
    assert sessions._lately == {}


PAGE = ROOT / "docs" / "how-to" / "end-open-connections.md"


async def test_the_application_that_the_guide_shows_ends_what_is_open(
    tmp_path: Path, examples: dict[str, Example]
) -> None:
    content, url = yaml.safe_load((ROOT / "config.yaml").read_text()), examples["app.py"].redis_url
    [shown] = blocks(PAGE, "python")
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**content, "redis": {"url": url, "timeout": 5}}))
    made: dict[str, Any] = {}
    await asyncio.to_thread(exec, shown.replace('"config.yaml"', repr(str(config))), made)
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=5)
    headers = credentials("guided", tenant_token="demo-tenant-token", secret=SECRET, kid="demo")
    async with (
        TestClient(TestServer(made["app"])) as client,
        client.get("/events", headers=headers) as answer,
        client.ws_connect("/socket", headers=headers) as opened,
        asyncio.timeout(60),
    ):
        assert await answer.content.readline() == b"data: still here\r\n"
        await opened.send_str("hello")
        assert await opened.receive_str() == "hello"
        await RedisOperatorActions(access.client).act("demo", ["guided"], Cause.SUSPEND, Author("root"))
        await answer.content.read()  # to the end
        message = await opened.receive()
        assert (message.data, message.extra) == (1008, "suspended")
    await access.close()


def test_the_commands_of_the_guide_end_a_stream_behind_nginx(tmp_path: Path) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin"
    needs("nginx and curl", found=bool(shutil.which("nginx", path=path) and shutil.which("curl")))
    first, then = (
        "\n".join(re.findall(r"^    (.+)$", text, re.M))
        for text in PAGE.read_text().partition("Run it with nginx")[2].split("Suspend the user in another terminal.")
    )
    then = then.splitlines()[0]
    assert "api.py" in first
    assert "suspend" in then
    own = {port: str(free_port()) for port in PORTS}
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for file in (file for file in (tmp_path / "examples").rglob("*.*") if file.is_file() and file.suffix != ".pyc"):
        file.write_text(moved(file.read_text(), own).replace("/tmp/rollcall-example", f"{tmp_path}/nginx"))
    programs = {"rollcall": f"{sys.executable} -m service", "python": sys.executable}
    first, then = (
        re.sub(r"\.venv/bin/(rollcall|python)", lambda found: programs[found[1]], moved(text, own))
        for text in (first, then)
    )
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"{first}\nkill $(jobs -p)\nwait"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(lambda: '"number": 3' in printed.read_text() or process.poll() is not None, within_s=80)
        done = subprocess.run(["bash", "-c", then], capture_output=True, text=True, timeout=60, check=True)
        assert '"status": "suspended"' in done.stdout
        process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert 'event: ended\r\ndata: {"cause": "suspended"}' in printed.read_bytes().decode()
