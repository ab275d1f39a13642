"""Paths that mean one thing to the gate and another to the upstream: none passes by a rule meant for another.

The upstream is an nginx whose locations are the rules. It normalises what reaches it by itself, and answers with the
name of the location that it came to.
"""

import http.client
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import free_port, needs, wait_for
from tests.proxies.deployment import Deployment, deployed, listens, stop
from tests.proxies.test_forward_auth import a_tenant, credentials
from tests.proxies.versions import NGINX, PROXIES

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]

ROUTES = [
    {"path": "/api/payments/*", "capability": "payments"},
    {"path": "/public/*", "open": True},
    {"path": "/api/*", "capability": "api"},
]
LOCATIONS = """
daemon off; pid {scratch}/pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path {scratch}/b; proxy_temp_path {scratch}/p; fastcgi_temp_path {scratch}/f;
  uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;
  server {{
    listen 127.0.0.1:{port};
    location = /api/payments  {{ return 200 payments; }}
    location   /api/payments/ {{ return 200 payments; }}
    location = /public        {{ return 200 public; }}
    location   /public/       {{ return 200 public; }}
    location = /api           {{ return 200 api; }}
    location   /api/          {{ return 200 api; }}
    location   /              {{ return 200 none; }}
  }}
}}
"""

# The result of a request: without credentials, by a user without restrictions, by a user restricted from payments.
OUTCOMES = {
    "public": (200, 200, 200),
    "api": (401, 200, 200),
    "payments": (401, 200, 403),
    "no rule": (401, 403, 403),
    "refused": (400, 400, 400),
}

# The strictest rule that any reading of the target comes to; "refused": servers resolve something in it.
TRICKS = {
    "public": [
        "/public/x",
        "/public",
        "/public/",
        "/public//x",
        "/public/%ef%bc%8e%ef%bc%8e/api/payments/7",
        "/public/x?/../api/payments/7",
        "/public/x?a=/../../api/payments/7",
        "http://api.example/public/x",
        "/public/é/x",
        "/public/" + "%61" * 2700,
        "/public/http://x",
        "/public/a%2Fb%2Fc",
        "/public/a//b///",
        "/public/v;x=1/w;y",
        "/public/what%3F",
        "/public/c%23/x",
    ],
    "api": [
        "/api/things",
        "/api/Payments/7",
        "/api/payments%e3%80%82/7",
        "/api/payments.json",
        "/api/payments~/7",
        "/api/payments,/7",
        "/api/+payments/7",
        "/api/a//b",
        "/api/a%2Fb",
        "/api/owners/42;q=11/pets",
    ],
    "payments": [
        "/api/payments./7",
        "/api/payments.",
        "/api/payments%20/7",
        "/api/payments%3f/public",
        "/api/payments",
        "/api/payments/7",
        "/api/payments/",
        "/api//payments/7",
        "/api/payments%2f7",
        "/api/%2fpayments/7",
        "/%61pi/payments/7",
        "/api/p%61yments/7",
        "/%61%70%69/%70%61%79%6d%65%6e%74%73/7",
        "/api/payments%3b/7",
        "/api/payments;x=1/7",
        "/api/;/payments/7",
        "/api/payments/7;.css",
        "/api/payments?/public/",
        "/api/payments/7?",
        "http://api.example/api/payments/7",
        "HTTP://API.EXAMPLE/api/payments/7",
        "http://other.example/api/payments/7",
        "http://public/api/payments/7",
        "/api/payments/7/",
        "/api/payments//7",
        "/api/payments//",
        "/api/payments%23/7",
        "/api/;x/payments%2f7",
    ],
    "no rule": [
        "/other",
        "/",
        "/public%2fx",
        "/api%2fpayments/7",
        "/api%2Fpayments%2F7",
        "/API/payments/7",
        "/PUBLIC/x",
        "/%41PI/payments/7",
        "/api;x=1/payments/7",
        "http://api.example",
        "/http://api.example/public/x",
        "/apI/payments",
        "/public%3Fx",
    ],
    "refused": [
        "/public/.../api/payments/7",
        "/public/%2e/x",
        "///api///payments///7",
        "/./api/./payments/7",
        "/api/./payments/7",
        "/api/x/../payments/7",
        "/public/../api/payments/7",
        "/public/./../api/payments/7",
        "/public/x/../../api/payments/7",
        "/public/..//api/payments/7",
        "/public//../api/payments/7",
        "/api/payments/../things",
        "/api/payments/..",
        "/api/payments/../../public/x",
        "/public/%2e%2e/api/payments/7",
        "/public/%2E%2E/api/payments/7",
        "/public/.%2e/api/payments/7",
        "/public/%2e./api/payments/7",
        "/%2e/api/payments/7",
        "/public/%2e%2e%2fapi/payments/7",
        "/public/..%2fapi/payments/7",
        "/public/..%2Fapi%2Fpayments%2F7",
        "/api/x%2f..%2fpayments/7",
        "/public/..;/api/payments/7",
        "/public/..;x=1/api/payments/7",
        "/public/%2e%2e;/api/payments/7",
        "/public/..%3b/api/payments/7",
        "/api/payments/7/..;/7",
        "/public/../api/payments/7?/public/x",
        "/public/x%3f/../../api/payments/7",
        "/public/x%23/../../api/payments/7",
        "http://api.example/public/../api/payments/7",
        "/public/http://api.example/../../../api/payments/7",
        "/api/pay%6dents/../things",
        "/api/payments/%2e%2e/things",
        "/api/payments%2f..%2fthings",
        "/public/a/b/c/../../../../api/payments/7",
        "/public/a/../../api/payments/%2e%2e/payments/7",
        "//api/payments/7",
        "//public/x",
        "//api.example/api/payments/7",
        "/public/..",
        "/public%2f..%2fapi/payments/7",
        "/%2fapi/payments/7",
        "/api%2f..%2fpublic/x",
        "/public;/../api/payments/7",
        "/;/api/payments/7",
        "http://api.example//api/payments/7",
        "/" + "a/" * 40 + "../" * 40 + "api/payments/7",
        "//public/../api/payments/7",
        "/../api/payments/7",
        "/public/../../api/payments/7",
        "/..",
        "/%2e%2e/api/payments/7",
        "/api/payments%2520/7",
        "/public/%252e%252e/api/payments/7",
        "/public/%252e%252e%252fapi/payments/7",
        "/public/..%252fapi/payments/7",
        "/api%252fpayments/7",
        "/public/%25252e%25252e/api/payments/7",
        "/public/%00/../../api/payments/7",
        "/api/payments/7%00",
        "/api/payments%00/7",
        "/public/x%00",
        "/public/%c0%ae%c0%ae/api/payments/7",
        "/public/..%c0%af..%c0%afapi/payments/7",
        "/public/%e0%80%ae%e0%80%ae/api/payments/7",
        "/public/%f0%80%80%ae/api",
        "/api/%c1%b0ayments/7",
        "/public/%ff/x",
        "/public/%uff0e%uff0e/api/payments/7",
        "/public/%u002e%u002e/api/payments/7",
        "/public/..\\api\\payments\\7",
        "/public/..%5capi%5cpayments%5c7",
        "/public\\..\\api/payments/7",
        "/public/%",
        "/public/%2",
        "/public/%zz",
        "/api/payments%",
        "/public/x%0d%0ax-auth-user:%20root",
        "/public/x%0a",
        "/public/%09/x",
        "/public/x%7f",
        "/public/x#/../../api/payments/7",
        "http://api.example?/public/x",
        "http:///api/payments/7",
        "http:/api/payments/7",
        "api/payments/7",
        "*",
        "/public/\udcff/x",
        "/public/\udcc0\udcae\udcc0\udcae/api/payments/7",
        "/public/x\x01",
        "/public/x\x7f",
        "/public/x y",
        "/api/payments\t/7",
        "///public/api/payments/7",
        "////public/x",
        "/public/../static/x%2f..%2f..%2fadmin/users",
        "/public/../api/x%2f..%2f..%2fapi/payments/7",
        "//public;x/api/payments/7",
        "/api/x%2f..%2f..%2fadmin/items",
        "/api/x//../../payments/7",
        "/.//public/api/payments/7",
        "/public/../api/payments/%2e%2e/public/x",
        "/public/..;/api/payments/..%3b/public/x",
        "/public/..%20/api/payments/7",
        "/public/..%3F/api/payments/7",
        "/;x%2fapi/payments/7",
        "/api/payments%25%32%66/7",
    ],
}


@pytest.fixture(scope="module")
def locations() -> Iterator[int]:
    needs("nginx", found=NGINX.program() is not None)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as scratch:
        file = Path(scratch) / "nginx.conf"
        file.write_text(LOCATIONS.format(port=port, scratch=scratch))
        process = subprocess.Popen([str(NGINX.program()), "-p", scratch, "-c", str(file)])
        try:
            wait_for(lambda: listens(port))
            yield port
        finally:
            stop(process)


@pytest.fixture(scope="module", params=PROXIES)
def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, locations: int
) -> Iterator[Deployment]:
    def change(content: dict[str, Any]) -> None:
        content["routes"] = ROUTES
        content["limits"] = {"verify": []}
        content["tenants"]["poor"] = a_tenant("poor", restricted_capabilities=["payments"])

    with deployed(PROXIES[request.param], tmp_path_factory.mktemp("tricks"), change, locations) as made:
        yield made


def ask(port: int, target: str, headers: dict[str, str], method: str = "GET") -> tuple[int, str]:
    """Status and body of a request whose target travels byte for byte."""
    lines = [f"{method} {target} HTTP/1.1", "host: api.example", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            return answer.status, answer.read().decode()


WHO = {"nobody": {}, "user": credentials("u"), "poor": credentials("p", tenant="poor")}


@pytest.mark.parametrize(("target", "rule"), [(target, rule) for rule, targets in TRICKS.items() for target in targets])
def test_no_trick_reaches_a_location_by_a_rule_meant_for_another(gate: Deployment, target: str, rule: str) -> None:
    nobody, user, poor = (ask(gate.port, target, who) for who in WHO.values())
    assert nobody in [(200, "public")] or nobody[0] >= 400, "only what is public is open"
    assert user in [(200, "public"), (200, "api"), (200, "payments")] or user[0] >= 400, "what no rule names is closed"
    assert poor in [(200, "public"), (200, "api")] or poor[0] >= 400, "who may not pay never reaches payments"
    if gate.proxy.name == "nginx":  # the others refuse more, or normalise what they pass on
        assert (nobody[0], user[0], poor[0]) == OUTCOMES[rule]


@pytest.mark.parametrize("target", ["/public/x%25%32%66", "/public/%252e%252e/x", "/public/x%7f", "/public/%ff"])
def test_the_client_hears_400_and_the_envelope_of_a_target_that_is_refused(gate: Deployment, target: str) -> None:
    for who in WHO.values():
        status, body = ask(gate.port, target, who)
        assert (status, json.loads(body)["error"]) == (
            400,
            {"message": "Bad Request", "code": "BAD_REQUEST", "status": 400},
        )


def test_the_table_has_enough_tricks() -> None:
    assert sum(map(len, TRICKS.values())) >= 60
