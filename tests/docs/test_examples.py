"""The examples are run as their README says; those of the proxies in `tests/proxies`."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config.loading import load
from service.store.embedded.server import find_server
from tests.kit import ROOT, Answer, credentials, free_port, needs, wait_for

EXAMPLES = ROOT / "examples"
SECRET = "demo-signing-secret-for-trying-out-only"
WHO = credentials("alice", tenant_token="demo-tenant-token", secret=SECRET, kid="demo")

Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    with middleware_example(tmp_path) as request:
        yield request


@contextmanager
def middleware_example(folder: Path, **sections: Any) -> Iterator[Ask]:
    """Run the middleware's example as a process, with `sections` over its configuration and its data in `folder`."""
    needs("a Redis server", found=find_server() is not None)
    content = yaml.safe_load((EXAMPLES / "middleware" / "config.yaml").read_text()) | sections
    jwt = content["tenants"]["demo"]["jwt"]
    content["tenants"]["poor"] = {"token": "poor-token", "jwt": jwt, "restricted_capabilities": ["payments"]}
    content["tenants"]["few"] = {
        "token": "few-token",
        "jwt": jwt,
        "limits": {"verify": [{"name": "requests-ip", "per": "ip", "requests": 2, "window": 60}]},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps(content))
    port = free_port()
    command = [sys.executable, "examples/middleware/app.py", "--port", str(port), "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def request(path: str, headers: Mapping[str, str], method: str = "GET") -> Answer:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=dict(headers), method=method)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def is_up() -> bool:
        assert process.poll() is None
        try:
            return request("/", {}).status == 404
        except urllib.error.URLError:
            return False

    wait_for(is_up)
    yield request
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, "it closes with the application"


@pytest.mark.slow
@pytest.mark.real_redis
def test_the_example_of_the_middleware_admits_and_refuses(ask: Ask) -> None:
    answer = ask("/things", WHO)
    assert (answer.status, json.loads(answer.body)["for"]) == (200, "alice")
    assert answer.headers["ratelimit"] == '"requests-ip";r=599;t=60'
    assert answer.headers["x-request-id"].startswith("req-")
    refused = ask("/things", {"x-tenant-token": "demo-tenant-token"})
    assert (refused.status, refused.code) == (401, "MISSING_USER_TOKEN")
    assert refused.headers["ratelimit"] == '"requests-ip";r=598;t=60', "what ends in 401 is charged"
    missing = ask("/nothing", WHO)
    assert missing.status == 404
    assert "ratelimit" not in missing.headers, "what has no route is not charged"


@pytest.mark.slow
@pytest.mark.real_redis
def test_in_the_example_a_token_used_after_logout_logs_in_again(ask: Ask) -> None:
    passive = {**WHO, "x-passive": "true"}
    out = ask("/logout", WHO, "POST")
    assert (out.status, out.data) == (200, {"success": True})
    assert out.headers["ratelimit"] == '"logout-ip";r=29;t=3600'
    assert ask("/things", passive).status == 200
    assert ask("/status", passive).data["status"] == "logged_out"
    assert ask("/things", WHO).status == 200
    data = ask("/status", passive).data
    assert (data["status"], data["previousStatus"]) == ("logged_in", "logged_out")


@pytest.mark.slow
@pytest.mark.real_redis
def test_in_the_example_the_decorators_capability_and_the_limits_hold(ask: Ask) -> None:
    poor = {**WHO, "x-tenant-token": "poor-token"}
    refused = ask("/payments/7", poor, "POST")
    assert (refused.status, refused.code) == (403, "RESTRICTED_CAPABILITY")
    assert json.loads(refused.body)["error"]["message"] == "Capability payments is restricted"
    assert ask("/things", poor).status == 200
    assert ask("/payments/7", WHO, "POST").status == 200
    few = {**WHO, "x-tenant-token": "few-token"}
    answers = [ask("/things", few) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].code == "TOO_MANY_REQUESTS"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


@pytest.mark.slow
@pytest.mark.real_redis
def test_the_middleware_refuses_a_path_that_servers_read_differently_where_rules_are_configured(tmp_path: Path) -> None:
    """It holds the rules to the request's own target: what the application's router makes of it matches a rule, too."""
    rules = [
        {"path": "/payments/*", "capability": "payments"},
        {"path": "/things", "open": True},
    ]
    with middleware_example(tmp_path, routes=rules) as ask:
        assert ask("/things", {}).status == 200
        assert ask("/payments/7", {}, "POST").status == 401
        assert ask("/payments/7", WHO, "POST").status == 200
        assert ask("/payments/%37", WHO, "POST").status == 200
        assert ask("/payments/a%2Fb", {}, "POST").status == 401
        assert ask("/payments/a%2Fb", WHO, "POST").status == 200, "both readings match the rule"
        for target in ("/payments/..%2F..%2Fthings", "/payments/..;", "/payments/%252e", "/payments/x%5Cy"):
            for who in ({}, WHO):
                refused = ask(target, who, "POST")
                assert (refused.status, refused.code) == (400, "BAD_REQUEST"), target


@pytest.mark.parametrize("file", ["rollcall.yaml", "middleware/config.yaml"])
def test_the_configuration_of_an_example_is_valid(file: str) -> None:
    assert set(load(EXAMPLES / file).tenants) == {"demo"}
