"""A service process to send nonsense to, and what those who send it may know."""

import http.client
import re
import time
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from service.store.embedded.server import find_server
from tests.fuzz.making import Known
from tests.kit import TENANT_TOKEN, Service, config, needs, sign

OPERATORS = ("fuzz-operator-token-of-acme", "fuzz-viewer-token-of-acme")
"""Of one tenant alone: whatever they set, another tenant's users are as well as before."""
LIMITS = ("logout", "status", "terminate", "admin", "login")
ROUTES = [
    {"path": "/api/payments/*", "methods": ["GET", "POST"], "capability": "pay"},
    {"path": "/public/*", "open": True},
    {"path": "/api/*", "limits": [{"name": "api-user", "per": "user", "requests": 1000, "window": 10}]},
]
FUZZED = config(
    server={"trusted_proxies": ["127.0.0.0/8"], "cors_origins": ["https://app.example"], "access_log": "all"},
    redis={"timeout": 5},  # the machine may be busy; a 503 would say that Redis is away, which it is not
    limits={one: [{"name": f"{one}-ip", "per": "ip", "requests": 10**7, "window": 60}] for one in LIMITS},
    routes=ROUTES,
    admin={
        "tokens": [
            {"name": role, "token": token, "role": role, "tenants": ["acme"]}
            for role, token in zip(("operator", "viewer"), OPERATORS, strict=True)
        ]
    },
)
"""With limits that let nearly all through to what is behind them; and every request in the log."""


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    needs("a Redis server", found=find_server() is not None)
    return start(FUZZED).wait_until_ready()


@pytest.fixture
def known(service: Service) -> Known:
    """A tenant's token, users', operators', and a browser that is logged in."""
    tokens = [sign(f"u{n}") for n in range(40)]
    tokens += [sign("u1", ttl_s=-5), sign("u2", secret="x" * 32), sign("u3", kid="other"), sign("ü ☃", iat=time.time())]
    cookie, csrf = _logged_in(service)
    return Known(TENANT_TOKEN, tokens, [OPERATORS[0], *OPERATORS], cookie, csrf)


def _logged_in(service: Service) -> tuple[str, str]:
    """The cookie and the form token of an operator's browser."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)

    def ask(method: str, path: str, body: str | None = None, cookie: str = "") -> tuple[str, str]:
        headers = {"cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        page = answer.read().decode()
        given = re.search(r"(rollcall-\w+=[^;]+)", answer.headers.get("set-cookie", ""))
        token = re.search(r'csrf"(?: value)?="([^"]+)"', page)
        return given[1] if given else cookie, token[1] if token else ""

    cookie, csrf = ask("GET", "/dashboard/login")
    cookie, _ = ask("POST", "/dashboard/login", urlencode({"csrf": csrf, "token": OPERATORS[0]}), cookie)
    cookie, csrf = ask("GET", "/dashboard?tenant=acme", cookie=cookie)
    connection.close()
    assert csrf, "nobody is logged in"
    return cookie, csrf


def complaints(service: Service) -> list[str]:
    """Return the lines of its log that should never appear."""
    bad = ("a request failed", "Traceback", '"level": "error"', '"level": "critical"', "never retrieved")
    return [line[:5000] for line in service.log_text.splitlines() if any(one in line for one in bad)][:20]
