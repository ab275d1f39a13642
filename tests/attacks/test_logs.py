"""Secrets in the wrong place: the log of a real service never has them, and cannot be forged."""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.attacks import raw_http as wire
from tests.attacks.conftest import COOKIE, Attack, of
from tests.attacks.forging import forge
from tests.attacks.operating import FORM
from tests.kit import OPERATOR_TOKEN, TENANT_TOKEN, Service, config, sign

pytestmark = pytest.mark.slow

METRICS_TOKEN = "token-of-the-metrics"
JWT, SHORT_JWT = sign("alice"), forge({"alg": "HS256"}, {"sub": "a", "exp": 9999999999})
SECRETS = {
    "a JWT": JWT,
    "a short JWT": SHORT_JWT,
    "the tenant's token": TENANT_TOKEN,
    "an operator's token": OPERATOR_TOKEN,
    "the metrics' token": METRICS_TOKEN,
}
BEARER = ("authorization", f"Bearer {OPERATOR_TOKEN}")
AT = "/admin/v1/tenants/acme"


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A process that logs everything, and gets proxied requests."""
    content = config(
        redis={"url": redis_url, "timeout": 2},
        server={"access_log": "all", "trusted_proxies": ["127.0.0.0/8"]},
        limits={name: [] for name in ("admin", "login", "status", "logout", "verify", "terminate")},
        metrics={"token": METRICS_TOKEN},
        routes=[{"path": "/*", "capability": "api"}],
    )
    with redis.Redis(unix_socket_path=redis_url.removeprefix("unix://")) as client:
        client.flushall()
    made = Service(Path(tmp_path_factory.mktemp("logs")), content)
    made.wait_until_ready()
    yield made
    made.end()


def get(path: str = "/auth/status", *fields: tuple[str, str]) -> bytes:
    return wire.request("GET", path, fields)


def post(path: str, body: str, *fields: tuple[str, str]) -> bytes:
    return wire.request("POST", path, fields, body.encode())


def proxied(method: str, target: str) -> bytes:
    return get("/auth/verify/nginx", ("x-original-method", method), ("x-original-uri", target))


AS_A_NAME: dict[str, Callable[[str], bytes]] = {
    "as a member of a body": lambda secret: post(f"{AT}/users/alice/suspend", f'{{"{secret}": 1}}', BEARER),
    "as a member twice": lambda secret: post(
        "/auth/terminate", f'{{"strategy": "soft", "{secret}": 1, "{secret}": 2}}', *of(JWT)
    ),
    "as a parameter": lambda secret: get(f"{AT}/sessions?{secret}=1&{secret}=2", BEARER),
}
"""An answer about a name that is not known has the name."""
PLACES: dict[str, Callable[[str], bytes]] = {
    "where it belongs": lambda secret: get("/auth/status", *of(secret, secret), ("authorization", f"Bearer {secret}")),
    "in the query": lambda secret: get(f"/auth/status?token={secret}&{secret}"),
    "in the dashboard's query": lambda secret: get(f"/dashboard/user?tenant=acme&user={secret}"),
    "in the path": lambda secret: get(f"/auth/status/{secret}"),
    "in the dashboard's path": lambda secret: get(f"/dashboard/{secret}"),
    "in the admin API's path": lambda secret: get(f"{AT}/users/{secret}"),
    "in an absolute address": lambda secret: get(f"http://{secret}@rollcall/nothing"),
    "in a proxied path": lambda secret: proxied("GET", f"/{secret}?{secret}"),
    "in a path behind Envoy's": lambda secret: get(f"/auth/verify/envoy/{secret}"),
    "as a proxied method": lambda secret: proxied(secret, "/"),
    "as the request id": lambda secret: get("/auth/status", ("x-request-id", secret)),
    "as the method": lambda secret: f"{secret} / HTTP/1.1\r\nhost: a\r\n\r\n".encode(),
    "as the version": lambda secret: f"GET / HTTP/{secret}\r\nhost: a\r\n\r\n".encode(),
    "as a field's name": lambda secret: get("/auth/status", (secret, "x"), (f"{secret} x", "y")),
    "as any field": lambda secret: get(
        "/nothing", *((name, secret) for name in ("x-api-key", "referer", "user-agent"))
    ),
    "as the address": lambda secret: get("/nothing", ("x-forwarded-for", secret), ("forwarded", f"for={secret}")),
    "as a cookie": lambda secret: get("/dashboard", ("cookie", f"{COOKIE}={secret}; {secret}={secret}")),
    "as an expectation": lambda secret: get("/auth/status", ("expect", secret)),
    "as a length": lambda secret: get("/auth/status", ("content-length", secret)),
    "as a coding": lambda secret: post("/auth/logout", secret, ("content-encoding", secret)),
    "as a chunk": lambda secret: get("/auth/logout", ("transfer-encoding", "chunked")) + f"{secret}\r\n".encode(),
    "as packed bytes": lambda secret: post("/auth/logout", secret, ("content-encoding", "gzip")),
    "in a body": lambda secret: post(f"{AT}/users/alice/suspend", f'{{"reason": {secret}', BEARER),
    "as a value of a body": lambda secret: post(f"{AT}/limits/status-ip/reset", f'{{"subject": ["{secret}"]}}', BEARER),
    **AS_A_NAME,
    "as the tenant": lambda secret: get(f"/admin/v1/tenants/{secret}", BEARER),
    "as a place in the events": lambda secret: get("/admin/v1/events?tenant=acme", BEARER, ("last-event-id", secret)),
    "in a login": lambda secret: post("/dashboard/login", f"csrf={secret}&token={secret}&next=/{secret}", FORM),
    "as Basic": lambda secret: get("/metrics", ("authorization", f"Basic {secret}")),
}


async def logged_after(service: Service, before: int) -> str:
    """What was logged since `before`. A thread writes the log, in order: a last request shows that it is all there."""
    mark = f"mark-{secrets.token_hex(8)}"
    await wire.send(service.port, get("/healthz", ("x-request-id", mark)))
    async with asyncio.timeout(10):
        while mark not in service.log_text[before:]:  # noqa: ASYNC110  # another process's doing
            await asyncio.sleep(0.01)
    return "".join(line for line in service.log_text[before:].splitlines(keepends=True) if mark not in line)


@pytest.mark.parametrize("place", PLACES)
async def test_the_log_has_no_secret_wherever_it_is_sent(service: Service, attack: Attack, place: str) -> None:
    found: dict[str, str] = {}
    for kind, secret in SECRETS.items():
        before = len(service.log_text)
        answers = await wire.send(service.port, PLACES[place](secret))
        reported = await logged_after(service, before)
        # Once a minute a warning has the problem with forwarded addresses, whatever the request is.
        others = [one for one in map(json.loads, reported.splitlines()) if "problem" not in one]
        errors = [one for one in others if one["level"] != "info"]
        found[kind] = "logged" if secret in reported else "an error of ours" if errors else "not logged"
        attack(f"{kind} {place}", found[kind])
        assert not any(status >= 500 for status in wire.statuses(answers))
    assert {*found.values()} == {"not logged"}, found


@pytest.mark.parametrize("place", AS_A_NAME)
async def test_an_answer_about_an_unknown_name_does_not_repeat_a_secret(
    service: Service, attack: Attack, place: str
) -> None:
    for kind, secret in SECRETS.items():
        answers = await wire.send(service.port, AS_A_NAME[place](secret))
        attack(f"{kind} {place}", "repeated" if secret.encode() in answers else "not repeated")
        assert wire.statuses(answers) == [400]
        assert secret.encode() not in answers
        assert b'"field": "[token]"' in answers


async def test_a_request_that_breaks_off_is_no_error_of_ours(service: Service, attack: Attack) -> None:
    for path, fields in ((f"{AT}/users/alice/suspend", [BEARER]), ("/auth/logout", []), ("/dashboard/login", [FORM])):
        before = len(service.log_text)
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(wire.request("POST", path, [*fields, ("content-length", "30")]) + b"{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while path not in service.log_text[before:]:
                await wire.send(service.port, get("/healthz"))
        reported = service.log_text[before:]
        attack(f"hung up on at {path}", "logged as an error" if '"error"' in reported else "not logged as an error")
        assert '"level": "error"' not in reported
        assert '"status": 500' not in reported


FORGERIES = ["%0a{}", "%0d%0a{}", "%e2%80%a8{}", "%c2%85{}", "%1b[2J{}", "%00{}", "%22,%22x%22:{}", "%5cn{}"]


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_no_line_of_the_log_is_anybody_elses(service: Service, attack: Attack, forgery: str) -> None:
    before = len(service.log_text)
    line = forgery.replace("{}", '{"event":"answered","status":200,"user":"forged"}').replace('"', "%22")
    await wire.send(service.port, get(f"/nothing/{line}"))
    await wire.send(service.port, get(f"{AT}/users/{line}", BEARER))
    reported = await logged_after(service, before)
    attack(f"a forged line by {forgery[:-2]}", "one line a request, as JSON")
    # Lines that report on earlier requests may come in between.
    lines = [one for one in map(json.loads, reported.split("\n")[:-1]) if one["event"] == "answered"]
    assert len(lines) == 2
    for one in lines:
        assert one["path"].count("forged") == 1
        assert "user" not in one
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", reported)


def test_one_of_the_secrets_is_well_formed_as_a_request_id_and_one_is_not() -> None:
    """Otherwise the tests above would prove nothing."""
    assert len(SHORT_JWT) <= 128 < len(JWT)
