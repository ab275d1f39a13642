"""Two OpenID providers, found by discovery: their keys rotate, are withdrawn, and the providers stop and start."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.app import RUNTIME
from service.core.errors import UnknownKey
from service.core.tokens.issuers import Issuers
from tests.conftest import Client, MakeClient
from tests.interoperability.signing import PACKAGES
from tests.kit import TENANT_TOKEN, find_node
from tests.ports import free_port

pytestmark = [pytest.mark.parametrize("access", ["fake"], indirect=True), pytest.mark.timeout(120)]


def rsa_key(kid: str, alg: str = "RS256") -> dict[str, Any]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _jwk(jwt.algorithms.RSAAlgorithm.to_jwk(private, as_dict=True), kid, alg)


def ec_key(kid: str) -> dict[str, Any]:
    private = ec.generate_private_key(ec.SECP256R1())
    return _jwk(jwt.algorithms.ECAlgorithm.to_jwk(private, as_dict=True), kid, "ES256")


def _jwk(exported: Any, kid: str, alg: str) -> dict[str, Any]:
    exported.pop("key_ops", None)
    return {**exported, "kid": kid, "alg": alg, "use": "sig"}


class Provider:
    """A process of oidc-provider."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.keys = keys
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        node = find_node()
        if node is None or not (PACKAGES / "node_modules").is_dir():
            pytest.skip("Node or oidc-provider: make interoperability installs them")
        script = Path(__file__).parent / "provider.mjs"
        pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(
            node, str(script), str(PACKAGES), str(self.port), stdin=pipe, stdout=pipe, stderr=quiet
        )
        await self.rotate(*self.keys)

    async def rotate(self, *keys: dict[str, Any]) -> None:
        """Publish these keys, and sign with the first."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.keys = keys
        self.process.stdin.write(json.dumps({"keys": keys}).encode() + b"\n")
        while b"ready" not in (line := await self.process.stdout.readline()):
            assert line, "the provider has ended"

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def token(self) -> str:
        """Return an access token as RFC 9068 has it, of the client `alice`."""
        login = aiohttp.encode_basic_auth("alice", "a-secret-of-a-client-on-loopback")
        form = {"grant_type": "client_credentials", "resource": "urn:api"}
        async with aiohttp.ClientSession(headers={"authorization": login}) as session:
            answer = await (await session.post(f"{self.issuer}/token", data=form)).json()
        return str(answer["access_token"])


@pytest.fixture
async def providers() -> AsyncIterator[tuple[Provider, Provider]]:
    made = Provider(rsa_key("one")), Provider(ec_key("same"))
    try:
        for provider in made:
            await provider.start()
        yield made
    finally:
        for provider in made:
            await provider.stop()


def tenants(providers: tuple[Provider, Provider]) -> dict[str, Any]:
    common = {"discovery": True, "audience": "urn:api", "types": ["at+jwt"]}
    first, second = providers
    blocks = [{"issuer": first.issuer, **common}, {"issuer": second.issuer, "user_prefix": "b:", **common}]
    return {"acme": {"token": TENANT_TOKEN, "jwt": blocks}}


async def ask(client: Client, token: str) -> tuple[int, str]:
    answer = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": token})
    content = await answer.json()
    return answer.status, content["data"]["userId"] if answer.status == 200 else content["error"]["code"]


async def test_rotations_of_two_providers_are_followed(
    make_client: MakeClient, providers: tuple[Provider, Provider]
) -> None:
    first, second = providers
    client = await make_client(tenants=tenants(providers))
    old = [await provider.token() for provider in providers]
    assert [await ask(client, token) for token in old] == [(200, "alice"), (200, "b:alice")]
    # With a new kid, the old key still published, as providers do.
    await first.rotate(rsa_key("two", "PS256"), *first.keys)
    assert await ask(client, await first.token()) == (200, "alice")
    assert await ask(client, old[0]) == (200, "alice")
    # Without a new kid.
    await second.rotate(ec_key("same"))
    assert await ask(client, await second.token()) == (200, "b:alice")
    assert await ask(client, old[1]) == (401, "INVALID_USER_TOKEN")
    # A withdrawn key, from the SIGHUP on.
    young = await first.token()
    await first.rotate(rsa_key("three"))
    assert client.app is not None
    runtime = client.app[RUNTIME]
    runtime.key_sets.refresh()
    verifier = runtime.policy.current.directory.tenants["acme"].ring
    assert isinstance(verifier, Issuers)
    await runtime.key_sets.refetch(UnknownKey("", verifier.rings[0]))
    assert [await ask(client, token) for token in (young, old[0])] == [(401, "INVALID_USER_TOKEN")] * 2
    assert await ask(client, await first.token()) == (200, "alice")


async def test_a_provider_that_is_away_keeps_its_tokens_good_and_costs_the_other_nothing(
    make_client: MakeClient, providers: tuple[Provider, Provider]
) -> None:
    first = providers[0]
    tokens = [await provider.token() for provider in providers]
    before = await make_client(tenants=tenants(providers))
    assert [await ask(before, token) for token in tokens] == [(200, "alice"), (200, "b:alice")]
    await first.stop()
    assert await ask(before, tokens[0]) == (200, "alice"), "its keys are held"
    begun_without = await make_client(tenants=tenants(providers))
    assert await ask(begun_without, tokens[0]) == (503, "SERVICE_UNAVAILABLE")
    assert await ask(begun_without, tokens[1]) == (200, "b:alice")
    await first.start()
    for _ in range(3):  # a request waits up to a second for the fetch
        answer = await ask(begun_without, tokens[0])
    assert answer == (200, "alice")
