"""The page on SDKs: its snippets for Python and curl run, and its table says what these do."""

import json
import os
import re
import subprocess
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from tests.docs.pages import snippet
from tests.kit import ROOT, TENANT_TOKEN, Service, config, credentials, needs, sign
from tests.proxies.deployment import Relay

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "how-to" / "use-from-an-sdk.md"
PAGES = (PAGE, PAGE.with_name("use-from-a-browser.md"))
ONCE_AN_HOUR = [{"name": "logout-user", "per": "user", "requests": 1, "window": 3600}]


@contextmanager
def limited_service() -> Iterator[Service]:
    """One for all tests of a file: each has a user of its own, who may log out once an hour."""
    with tempfile.TemporaryDirectory(prefix="rollcall-test-", dir="/tmp") as folder:
        made = Service(Path(folder), config(limits={"logout": ONCE_AN_HOUR}, redis={"timeout": 5}))
        try:
            yield made.wait_until_ready()
        finally:
            made.end()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with limited_service() as made:
        yield made


class Asked:
    """The service as a client of one user has it, and what that client sends."""

    def __init__(self, service: Service, user: str) -> None:
        self.service, self.user = service, user
        self.relay = Relay(service.port)
        self.api = f"http://127.0.0.1:{self.relay.port}"
        self.url = f"{self.api}/auth/logout"
        self.token = sign(user)
        self.headers = {"x-tenant-token": TENANT_TOKEN, "x-token": self.token}
        self.names = {"api": self.api, "tenant": TENANT_TOKEN, "token": self.token}

    @property
    def logouts(self) -> int:
        """How many requests for a logout came."""
        return len(re.findall(rb"^(?:GET|POST) /auth/logout ", self.relay.sent, re.M))

    def use_up(self) -> None:
        """Log out, so that a limit refuses the next logout for an hour."""
        assert self.service.get("/auth/logout", credentials(self.user)).status == 200

    @property
    def status(self) -> Any:
        return self.service.get("/auth/status", credentials(self.user) | {"x-passive": "true"}).data["status"]


@pytest.fixture
def asked(service: Service, request: pytest.FixtureRequest) -> Iterator[Asked]:
    made = Asked(service, request.node.name)
    yield made
    made.relay.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of urllib3, which are over at once."""
    waits: list[float] = []
    clock = types.SimpleNamespace(sleep=waits.append, time=time.time)
    monkeypatch.setattr("urllib3.util.retry.time", clock)
    return waits


AN_HOUR = range(3500, 3601)


def documented(library: str) -> dict[str, str]:
    """What the table of the page says of a `GET` and of a `POST` that is refused."""
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.M)
    [found] = [row for row in rows if re.sub(r" \d+\.\d+\.\d+|`", "", row[0]) == library]
    return {"GET": found[1], "POST": found[2]}


def in_words(waits_s: Sequence[float]) -> str:
    """The same from the waits that were seen, in seconds."""
    if not waits_s:
        return "returns the 429"
    if all(int(wait) in AN_HOUR for wait in waits_s):
        return "sleeps the whole `Retry-After`"
    assert [int(wait) for wait in waits_s] == [30] * 5
    return "waits 30 seconds, five times"


LIBRARIES: dict[str, tuple[Callable[[], Any], int]] = {
    "urllib3": (urllib3.PoolManager, 4),
    "requests, as shipped": (requests.Session, 1),
    "requests, max_retries=3": (lambda: mounted(3), 4),
}
"""What asks → how it is made, and how often it sends a `GET` that is refused each time."""


def mounted(retries: Any) -> requests.Session:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retries))
    return session


def status_of(answer: Any) -> int:
    return int(answer.status if isinstance(answer, urllib3.BaseHTTPResponse) else answer.status_code)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_retries_of_urllib3_do_with_a_refused_logout_what_the_table_says(
    asked: Asked, slept: list[float], library: str
) -> None:
    make, requests_sent = LIBRARIES[library]
    asked.use_up()
    with make() as client:
        for method, sent in (("POST", 1), ("GET", requests_sent)):
            before = asked.logouts
            assert status_of(client.request(method, asked.url, headers=asked.headers)) == 429
            assert (asked.logouts - before, len(slept)) == (sent, sent - 1)
            assert in_words(slept) == documented(library)[method]


@pytest.fixture
def python(asked: Asked) -> dict[str, Any]:
    """What the snippet for Python defines."""
    made: dict[str, Any] = dict(asked.names)
    exec(snippet(PAGE, "python", "AfterOutages"), made)
    return made


def test_the_snippet_for_python_logs_out_and_returns_a_429_at_once(
    asked: Asked, python: dict[str, Any], slept: list[float]
) -> None:
    with python["http"] as http:
        assert python["log_out"]() is True
        assert asked.status == "logged_out"
        assert python["log_out"]() is False
        assert http.get(asked.url, headers=asked.headers, timeout=5).status_code == 429
    assert (asked.logouts, slept) == (3, [])


def test_what_the_page_says_of_urllib3_alone_holds(asked: Asked, python: dict[str, Any], slept: list[float]) -> None:
    asked.use_up()
    shown = re.search(r"`(urllib3\.PoolManager\(.*\))`", PAGE.read_text())
    assert shown is not None
    with eval(shown[1], {"urllib3": urllib3, **python}) as http:
        assert http.request("GET", asked.url, headers=asked.headers).status == 429
    assert (asked.logouts, slept) == (1, [])


def test_a_503_is_repeated_after_its_retry_after_and_never_longer_than_the_cap(
    python: dict[str, Any], slept: list[float]
) -> None:
    retries = python["AfterOutages"](3, retry_after_max=5)
    assert retries.is_retry("GET", 503, has_retry_after=True)
    for given, wait in (("1", 1), ("3600", 5)):
        retries.sleep(urllib3.HTTPResponse(status=503, headers={"retry-after": given}))
        assert slept.pop() == wait


def curl(command: str, asked: Asked) -> "subprocess.Popen[str]":
    """Start curl by a command of the shell."""
    needs("curl", found=which("curl") is not None)
    return subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        env={"PATH": os.environ["PATH"], **asked.names},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_for_curl_logs_out_and_ends_at_once_when_it_is_refused(asked: Asked) -> None:
    command = snippet(PAGE, "sh", "curl").strip()
    with curl(command, asked) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, asked.status) == (0, "logged_out"), errors
    with curl(command, asked) as process:
        _, errors = process.communicate(timeout=60)
    assert (asked.logouts, "Will retry" in errors) == (2, False), errors


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_curl_with_retries_does_what_the_table_says(asked: Asked, method: str) -> None:
    asked.use_up()
    fields = '-H "x-tenant-token: $tenant" -H "x-token: $token"'
    with curl(f'curl --retry 3 -X {method} {fields} "$api/auth/logout"', asked) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if "Will retry" in line), "")
        process.kill()
    waits = re.search(r"Will retry in (\d+)", said)
    assert waits is not None
    assert in_words([int(waits[1])]) == documented("curl, --retry 3")[method]


def test_the_snippet_that_reads_the_limits_in_python_does(asked: Asked) -> None:
    with requests.get(asked.url, headers=asked.headers, timeout=30) as answer:
        made: dict[str, Any] = {"answer": answer}
        exec(snippet(PAGE, "python", "http_sf"), made)
    assert made["remaining"] == {"logout-user": 0}


LOCKED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "locked.txt").read_text(), re.M))
NPM = json.loads((ROOT / "tests" / "clients" / "package.json").read_text())["dependencies"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_libraries_are_named_with_the_versions_that_the_tests_run(page: Path) -> None:
    pinned = {name.lower(): version for name, version in (LOCKED | NPM).items()}
    named = re.findall(r"`?([@\w/-]+)`? (\d+\.\d+\.\d+)", page.read_text())
    assert named
    for name, version in named:
        if name not in ("curl", "go-retryablehttp"):  # Debian's, which move by themselves
            assert pinned[name.lower()] == version, name
