"""A key set that cannot be fetched, and one that holds nothing: what a request, an operator and a log get to know."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ed25519
from structlog.testing import capture_logs

from service.app import RUNTIME
from service.core.errors import UnknownKey
from service.process.reloading import Reloader
from tests.conftest import Client, MakeClient
from tests.kit import TENANT_TOKEN, config

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)
KEY = ed25519.Ed25519PrivateKey.generate()
HELD: list[Any] = [
    {**jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k1", "alg": "EdDSA"},
]


def token(kid: str = "k1", user: str = "alice", **headers: str) -> str:
    claims = {"sub": user, "exp": time.time() + 60}
    return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": kid, **headers})


class Issuer:
    def __init__(self) -> None:
        self.keys, self.status, self.asked, self.url = HELD, 200, 0, ""

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"keys": self.keys}, status=self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made, app = Issuer(), web.Application()
    app.router.add_get("/jwks", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/jwks"))
        yield made


def tenants(issuer: Issuer, **rules: Any) -> dict[str, Any]:
    return {"acme": {"token": TENANT_TOKEN, "jwt": {"jwks_url": issuer.url, **rules}}}


async def ask(client: Client, given: str, path: str = "/auth/status", **headers: str) -> Any:
    about = {"x-original-method": "GET", "x-original-uri": "/x"} if "verify" in path else {}
    who = {"x-tenant-token": TENANT_TOKEN, "x-token": given}
    return await client.get(path, headers={**who, **about, **headers})


def needed(client: Client) -> UnknownKey:
    """What a request raises whose token names a key that is not held."""
    assert client.app is not None
    return UnknownKey("", client.app[RUNTIME].policy.current.directory.tenants["acme"].ring)


async def code_of(answer: Any) -> str:
    return str((await answer.json())["error"]["code"])


@pytest.mark.parametrize("path", ["/auth/status", "/auth/logout", "/auth/verify", "/auth/verify/nginx"])
async def test_without_a_key_set_a_request_is_503_with_a_time_to_wait_and_charged(
    make_client: MakeClient, issuer: Issuer, path: str
) -> None:
    issuer.status = 500
    limits = {
        name: [{"name": f"{name}-ip", "per": "ip", "requests": 2, "window": 60}]
        for name in ("status", "logout", "verify")
    }
    client = await make_client(tenants=tenants(issuer), limits=limits)
    for given in (token(), token("k2")):
        answer = await ask(client, given, path)
        assert answer.headers.get("x-deny-status", str(answer.status)) == "503"
        assert await code_of(answer) == "SERVICE_UNAVAILABLE"
        assert answer.headers["Retry-After"] == "10"
        assert "RateLimit" not in answer.headers
        assert "x-degraded" not in answer.headers
    assert await code_of(await ask(client, token(), path)) == "TOO_MANY_REQUESTS", "a 503 is charged, and 429 wins"
    assert issuer.asked <= 3, "at the start, and once for each request that waited"


async def test_what_no_key_can_make_good_is_401_also_without_a_key_set(make_client: MakeClient, issuer: Issuer) -> None:
    issuer.status = 500
    client = await make_client(tenants=tenants(issuer))
    symmetric = jwt.encode({"sub": "alice", "exp": time.time() + 60}, "s" * 32, headers={"kid": "k1"})
    for given in ("junk", "a.b.c", token(typ="logout+jwt"), symmetric):
        assert await code_of(await ask(client, given)) == "INVALID_USER_TOKEN"
    missing = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN})
    assert await code_of(missing) == "MISSING_USER_TOKEN"


async def test_an_open_route_needs_no_key_set(make_client: MakeClient, issuer: Issuer) -> None:
    issuer.status = 500
    routes = [{"path": "/x", "open": True}]
    client = await make_client(tenants=tenants(issuer), routes=routes, server={"trusted_proxies": ["127.0.0.0/8"]})
    assert (await ask(client, token(), "/auth/verify")).status == 200


async def test_a_withdrawn_key_is_401_from_the_reload_on(
    make_client: MakeClient, issuer: Issuer, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config(tenants=tenants(issuer))))
    client = await make_client(tenants=tenants(issuer))
    assert client.app is not None
    runtime, given = client.app[RUNTIME], token()
    assert (await ask(client, given)).status == 200
    issuer.keys = []
    await Reloader(path, runtime).reload()  # what SIGHUP begins
    await runtime.key_sets.refetch(needed(client))
    assert await code_of(await ask(client, given)) == "INVALID_USER_TOKEN"
    assert await code_of(await ask(client, token("k9"))) == "INVALID_USER_TOKEN"


async def test_a_reload_of_a_broken_file_fetches_the_key_sets_too(
    make_client: MakeClient, issuer: Issuer, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: 7")
    client = await make_client(tenants=tenants(issuer))
    assert client.app is not None
    runtime = client.app[RUNTIME]
    assert (await ask(client, token())).status == 200
    issuer.keys = []
    assert not await Reloader(path, runtime).reload()
    await runtime.key_sets.refetch(needed(client))
    assert await code_of(await ask(client, token())) == "INVALID_USER_TOKEN"


async def test_readyz_metrics_and_the_log_name_the_source_that_failed(make_client: MakeClient, issuer: Issuer) -> None:
    client = await make_client(tenants=tenants(issuer))
    assert client.app is not None
    sets = client.app[RUNTIME].key_sets

    async def reported() -> tuple[int, list[str], set[str]]:
        ready = await client.get("/readyz")
        lines = (await (await client.get("/metrics")).text()).splitlines()
        return (
            ready.status,
            (await ready.json())["data"]["warnings"],
            {line for line in lines if line.startswith(("rollcall_jwks_up", "rollcall_jwks_fetches_total"))},
        )

    assert (await ask(client, token())).status == 200
    succeeded = 'rollcall_jwks_fetches_total{outcome="succeeded",tenant="acme"} 1.0'
    assert await reported() == (200, [], {'rollcall_jwks_up{tenant="acme"} 1.0', succeeded})
    issuer.status = 404
    with capture_logs() as logs:
        sets.refresh()
        await sets.refetch(needed(client))
    [line] = [line for line in logs if line["event"].startswith("jwks")]
    assert (line["log_level"], line["tenant"], line["reason"]) == ("warning", "acme", "it answered 404")
    status, [warning], metrics = await reported()
    assert status == 200, "a key source never makes the service unready"
    assert warning.startswith("the key set of tenant acme could not be fetched (it answered 404); the keys fetched ")
    failed = 'rollcall_jwks_fetches_total{outcome="failed",tenant="acme"} 1.0'
    assert metrics == {'rollcall_jwks_up{tenant="acme"} 0.0', succeeded, failed}
    sets.follow([])
    assert not {line for line in (await reported())[2] if line.startswith("rollcall_jwks_up")}


async def test_the_log_says_why_a_token_could_not_be_judged(make_client: MakeClient, issuer: Issuer) -> None:
    issuer.status = 500
    client = await make_client(tenants=tenants(issuer))
    with capture_logs() as logs:
        await ask(client, token())
    [line] = [line for line in logs if line["event"] == "answered"]
    assert (line["code"], line["reason"]) == (
        "SERVICE_UNAVAILABLE",
        "the key set could not be fetched",
    )
    assert not [line for line in logs if line["log_level"] == "error"], "it is no mistake of ours"


async def test_a_key_that_is_rotated_under_the_same_kid_is_found_by_the_first_request_that_needs_it(
    make_client: MakeClient, issuer: Issuer
) -> None:
    client = await make_client(tenants=tenants(issuer))
    assert (await ask(client, token())).status == 200
    new = ed25519.Ed25519PrivateKey.generate()
    issuer.keys = [{**jwt.algorithms.OKPAlgorithm.to_jwk(new.public_key(), as_dict=True), "kid": "k1"}]
    rotated = jwt.encode({"sub": "alice", "exp": time.time() + 60}, new, algorithm="EdDSA", headers={"kid": "k1"})
    assert (await ask(client, rotated)).status == 200
    assert await code_of(await ask(client, token(user="bob"))) == "INVALID_USER_TOKEN"


@pytest.mark.parametrize("kid", ["k1", "made-up"])
async def test_forged_tokens_are_401_and_cause_one_fetch_in_the_time_of_the_budget(
    make_client: MakeClient, issuer: Issuer, kid: str
) -> None:
    client = await make_client(tenants=tenants(issuer))
    assert (await ask(client, token())).status == 200
    stranger, asked = ed25519.Ed25519PrivateKey.generate(), issuer.asked
    for number in range(20):
        claims = {"sub": f"user{number}", "exp": time.time() + 60}
        forged = jwt.encode(claims, stranger, algorithm="EdDSA", headers={"kid": kid})
        assert await code_of(await ask(client, forged)) == "INVALID_USER_TOKEN"
    assert issuer.asked == asked + 1
    assert (await ask(client, token(user="carol"))).status == 200
