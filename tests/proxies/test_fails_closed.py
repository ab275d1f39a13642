"""Asking Rollcall may fail in many ways. Each ends in a refusal; the API hears nothing, and the proxy goes on.

An impostor listens at Rollcall's address, behind a proxy as `examples/` configures it. The results are in
docs/reference/proxies.md.
"""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from subprocess import Popen

import pytest

from tests.kit import free_port, wait_for
from tests.proxies.deployment import Upstream, listens, running
from tests.proxies.impostor import Behaviour, Impostor, admission, resets, responds, says, stalls
from tests.proxies.outcomes import Row
from tests.proxies.versions import PROXIES, Proxy

pytestmark = pytest.mark.slow

MARKER = "x-auth-admitted: 1"
ELSEWHERE = "location: http://127.0.0.1:1/"


@dataclass(frozen=True)
class Failure(Row):
    """What does the harm in the place of an admission of Rollcall's."""

    does: Behaviour | None = None
    """None: refuse the connection."""
    waits: bool = False
    """The proxy has to give up on it: these are asked side by side."""


# Caddy and Traefik have statuses of their own for what they cannot ask.
NO_ANSWER = {"caddy": "502", "traefik": "502"}
NO_HTTP = {"caddy": "502", "traefik": "500"}
TOO_LATE = {"caddy": "504", "traefik": "504"}


def handed_on(status: str) -> dict[str, str]:
    """What comes of an error that is not Rollcall's where it is handed to the client."""
    return dict.fromkeys(("caddy", "envoy", "traefik"), status)


FAILURES = (
    Failure("refuses the connection", "503", NO_ANSWER),
    Failure("closes the connection without an answer", "503", NO_ANSWER, says(b"")),
    Failure("resets the connection", "503", NO_ANSWER, resets),
    Failure("accepts the connection, and never answers", "503", TOO_LATE, stalls(), waits=True),
    Failure("half a head, within the status line", "503", NO_HTTP, says(b"HTTP/1.1 20")),
    Failure("half a head, behind the status line", "503", NO_HTTP, says(b"HTTP/1.1 200 OK\r\n")),
    Failure("half a head, within a field behind the marker", "503", NO_HTTP, says(admission()[:-20])),
    Failure("half a head, the empty line missing", "503", NO_HTTP, says(admission() + b"content-length: 0\r\n")),
    Failure("half a head, and silence", "503", TOO_LATE, stalls(admission()), waits=True),
    Failure("another protocol's greeting", "503", NO_HTTP, says(b"220 mail.example ESMTP\r\n")),
    Failure("a page without a head", "503", NO_HTTP, says(b"<html><body>200 OK</body></html>\r\n\r\n")),
    Failure("fields without a status line", "503", NO_HTTP, says(f"{MARKER}\r\nx-auth-user: root\r\n\r\n".encode())),
    Failure("a TLS alert", "503", NO_HTTP, says(b"\x15\x03\x01\x00\x02\x02\x28")),
    Failure("100 alone", "503", NO_HTTP, says(b"HTTP/1.1 100 Continue\r\n\r\n")),
    Failure("100, and silence", "503", TOO_LATE, stalls(b"HTTP/1.1 100 Continue\r\n\r\n"), waits=True),
    Failure(
        "103 alone, with the marker", "503", NO_HTTP, says(f"HTTP/1.1 103 Early Hints\r\n{MARKER}\r\n\r\n".encode())
    ),
    Failure(
        "101 with the marker",
        "503",
        {"traefik": "500"},
        says(f"HTTP/1.1 101 Switching Protocols\r\n{MARKER}\r\n\r\n".encode()),
    ),
    Failure("200 without the marker", "503", {}, responds("200 OK", "x-auth-user: root")),
    Failure("200 with another marker", "503", {}, responds("200 OK", "x-auth-admitted: 0", "x-auth-user: root")),
    Failure("201 without the marker", "503", {}, responds("201 Created")),
    Failure("204 without the marker", "503", {}, responds("204 No Content")),
    Failure("302", "503", {"traefik": "302"}, responds("302 Found", ELSEWHERE)),
    Failure("302 with the marker", "503", {"traefik": "302"}, responds("302 Found", ELSEWHERE, MARKER)),
    Failure("304 with the marker", "503", {"traefik": "304"}, responds("304 Not Modified", MARKER)),
    Failure("401, not Rollcall's", "503", handed_on("401") | {"nginx": "403"}, responds("401 Unauthorized")),
    Failure("403 with the marker", "503", handed_on("403") | {"nginx": "403"}, responds("403 Forbidden", MARKER)),
    Failure("404", "503", handed_on("404"), responds("404 Not Found")),
    Failure("500, not Rollcall's", "503", handed_on("500") | {"envoy": "503"}, responds("500 Internal Server Error")),
    Failure("502", "503", handed_on("502") | {"envoy": "503"}, responds("502 Bad Gateway")),
    Failure("503 with the marker", "503", {}, responds("503 Service Unavailable", MARKER)),
)
"""What Rollcall, or what else is at its address, does."""

ANNA = "200, anna"
MARKED = (
    Failure("200 with the marker", ANNA, {}, says(admission() + b"content-length: 0\r\n\r\n")),
    Failure(
        "200 with the marker, half its body",
        ANNA,
        {"envoy": "503", "traefik": "500"},
        says(admission() + b"content-length: 100\r\n\r\n{}"),
    ),
    Failure(
        "200 with the marker, half its body, and silence",
        ANNA,
        {"envoy": "503", "traefik": "500"},
        stalls(admission() + b"content-length: 100\r\n\r\n{}"),
        waits=True,
    ),
    Failure("201 with the marker", "503", {"traefik": "200, **no identity**"}, responds("201 Created", MARKER)),
    Failure("204 with the marker", "503", {"traefik": "200, **no identity**"}, responds("204 No Content", MARKER)),
)
"""What carries the marker and is no error: Rollcall sends the first alone, and the second where it dies meanwhile."""


class Front:
    """A proxy between a client, an impostor and an API that records."""

    def __init__(
        self, proxy: Proxy, process: "Popen[bytes]", port: int, impostor: Impostor, upstream: Upstream
    ) -> None:
        self.proxy, self.process, self.port, self.impostor, self.upstream = proxy, process, port, impostor, upstream
        self._marks = {row.case: f"case{number}" for number, row in enumerate((*FAILURES, *MARKED))}
        impostor.behaviours = {self._marks[row.case]: row.does for row in (*FAILURES, *MARKED) if row.does}
        self._pool = ThreadPoolExecutor(16)
        self._waiting: dict[str, Future[str]] = {}

    def start_waiting(self) -> None:
        """Ask what takes until the proxy gives up."""
        rows = [row for row in (*FAILURES, *MARKED) if row.waits]
        self._waiting = {row.case: self._pool.submit(self.ask, self._marks[row.case]) for row in rows}

    def outcome(self, row: Failure) -> str:
        """Of a request without credentials that claims an identity."""
        if row.case in self._waiting:
            return self._waiting[row.case].result()
        if row.does is not None:
            return self.ask(self._marks[row.case])
        wait(self._waiting.values())  # else these would be refused, too
        self.impostor.refuse()
        try:
            return self.ask(self._marks[row.case])
        finally:
            self.impostor.listen()

    def ask(self, mark: str, fields: Mapping[str, str] | None = None) -> str:
        """Ask for a target with `mark` in it.

        Returns:
            The status that the client saw, and whom the API heard of, if it heard anything.
        """
        target = f"/api/payments/{mark}"
        sent = {"host": "api.example", "connection": "close", "x-auth-user": "root", "x-auth-admitted": "1"}
        lines = [
            f"POST {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in (sent | dict(fields or {})).items()),
        ]
        status = exchange(self.port, "\r\n".join([*lines, "content-length: 2", "", "{}"]).encode())
        seen = [
            one["headers"].get("x-auth-user", "**no identity**")
            for one in self.upstream.seen
            if one["target"] == target
        ]
        self.upstream.seen[:] = [one for one in self.upstream.seen if one["target"] != target]
        return ", ".join([str(status), *seen])


def exchange(port: int, request: bytes) -> int:
    """The final response's status; whatever interim ones come before it are skipped. 0: there was none."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        while more := connection.recv(65536):
            received += more
            while received[9:10] == b"1" and received[9:12] != b"101" and b"\r\n\r\n" in received:
                received = received.partition(b"\r\n\r\n")[2]
            if received[9:12] == b"101":
                break
    return int(received[9:12] or 0)


@pytest.fixture(scope="module", params=PROXIES)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    proxy, folder = PROXIES[request.param], tmp_path_factory.mktemp(request.param)
    port = free_port()
    proxy.command(port)  # skips where the program is missing
    upstream, impostor = Upstream(), Impostor()
    try:
        with running(proxy, folder, port, impostor.port, upstream.port) as process:
            made = Front(proxy, process, port, impostor, upstream)
            wait_for(lambda: process.poll() is not None or (listens(port) and made.ask("up") == ANNA))
            assert process.poll() is None, (folder / "proxy.log").read_text()
            made.start_waiting()
            yield made
    finally:
        impostor.close()
        upstream.close()


def goes_on(front: Front) -> bool:
    """Whether the same process admits the next request that is to be admitted.

    It is sent once more where it fails: Envoy does not ask again on a kept connection that closes at that very moment.
    """
    return ANNA in (front.ask("next"), front.ask("next")) and front.process.poll() is None


@pytest.mark.parametrize("row", [pytest.param(row, id=row.case) for row in (*FAILURES, *MARKED)])
def test_where_rollcall_cannot_be_asked_the_api_hears_nothing_and_the_proxy_goes_on(front: Front, row: Failure) -> None:
    assert front.outcome(row) == row.at(front.proxy)
    assert goes_on(front)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.case) for row in FAILURES])
def test_the_table_has_no_failure_that_reaches_the_api_or_looks_like_success(row: Failure) -> None:
    """The rows say what is expected: this holds them to what must never be."""
    for proxy in PROXIES.values():
        refused = re.fullmatch("[45]..", row.at(proxy))
        assert refused or (proxy.name == "traefik" and row.at(proxy) in ("302", "304")), proxy.id


@pytest.mark.parametrize("bytes_sent", range(13_000, 15_400, 200))
def test_no_client_loses_its_identity_by_sending_long_fields(front: Front, bytes_sent: int) -> None:
    """A proxy has only so much room for a request's head, and the identity is added to what the client sent."""
    front.impostor.user = user = "%F0%9F%98%80" * 120  # 120 characters
    try:
        outcome = front.ask("long", {"x-long": "x" * bytes_sent})
    finally:
        front.impostor.user = "anna"
    assert outcome == f"200, {user}" or re.fullmatch("[45]..", outcome)
    assert goes_on(front)


def test_an_admission_is_of_one_request_not_of_its_connection(front: Front) -> None:
    """What a proxy keeps of one request (variables, a route) must not decide about the next on the same connection."""
    unmarked = next(f"case{number}" for number, row in enumerate(FAILURES) if row.case == "200 without the marker")
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=10)
    try:
        statuses = []
        for mark in ("next", unmarked, "next", unmarked, unmarked):
            connection.request("POST", f"/api/payments/{mark}", body=b"{}", headers={"x-auth-user": "root"})
            with connection.getresponse() as answer:
                statuses.append(answer.status)
                answer.read()
    finally:
        connection.close()
    heard = [one["headers"]["x-auth-user"] for one in front.upstream.seen]
    front.upstream.seen.clear()
    assert statuses == [200, 503, 200, 503, 503]
    assert heard == ["anna", "anna"]


@pytest.mark.parametrize("case", ["200 without the marker", "204 without the marker", "302 with the marker"])
def test_an_answer_that_is_not_rollcalls_becomes_rollcalls_503(front: Front, case: str) -> None:
    if front.proxy.name == "traefik":
        pytest.skip("Traefik has an answer of its own")
    mark = next(f"case{number}" for number, row in enumerate(FAILURES) if row.case == case)
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=10)
    try:
        connection.request("GET", f"/api/payments/{mark}")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    reported = {name.lower(): value for name, value in answer.getheaders()}
    assert (answer.status, json.loads(body)["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert body.endswith(b"}\n")
    assert reported["content-type"] == "application/json; charset=utf-8"
    assert (reported["retry-after"], reported["cache-control"]) == ("1", "no-store")
    assert not {"x-auth-admitted", "x-auth-user"} & reported.keys()
