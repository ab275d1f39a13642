"""Remote key sets: what is taken from them, when they are fetched, and what survives a URL that fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service import jwks
from service.core.errors import UnknownKey
from service.core.tokens import KeyRing
from service.jwks import RemoteKeySets, Source, read_key_set

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOW = 1_800_000_000.0


def jwk(private: Any, kid: str | None = "r1", **members: Any) -> dict[str, Any]:
    kinds: list[tuple[type, Any]] = [
        (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
        (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
        (ed25519.Ed25519PrivateKey, jwt.algorithms.OKPAlgorithm),
    ]
    algorithm = next(algorithm for kind, algorithm in kinds if isinstance(private, kind))
    made: dict[str, Any] = algorithm.to_jwk(private.public_key(), as_dict=True)
    return {**made, **({"kid": kid} if kid else {}), **members}


def key_set(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


def sign(private: Any, kid: str) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60}, private, algorithm="RS256", headers={"kid": kid})


def test_keys_are_taken_with_their_algorithm_or_the_configured_one() -> None:
    curve, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    members = [jwk(RSA, "a"), jwk(RSA, "b", alg="PS512"), jwk(curve, "c", alg="ES256"), jwk(edwards, "d", alg="EdDSA")]
    raw = key_set(*members)
    assert [(key.kid, key.alg) for key in read_key_set(raw, "RS384")] == [
        ("a", "RS384"),
        ("b", "PS512"),
        ("c", "ES256"),
        ("d", "EdDSA"),
    ]


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
        {**jwk(RSA), "alg": "HS256"},
        {**jwk(RSA), "alg": "none"},
        {**jwk(RSA), "use": "enc"},
        {**jwk(RSA), "kid": 7},
        {**jwk(RSA), "n": "AQAB"},
        {"kty": "RSA", "kid": "x"},
        {"kty": "unknown"},
        "text",
        None,
    ],
)
def test_what_cannot_verify_is_skipped(member: Any) -> None:
    assert [key.kid for key in read_key_set(key_set(member, jwk(RSA, "good")), "RS256")] == ["good"]
    with pytest.raises(ValueError, match="no key that can be used"):
        read_key_set(key_set(member), "RS256")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"keys": 7}', b"[" * 100_000])
def test_what_is_no_key_set_is_told(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a JWK Set"):
        read_key_set(raw, "RS256")


def test_a_private_key_in_a_key_set_is_taken_as_its_public_half() -> None:
    leaked = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"kid": "leaked"}
    assert [key.kid for key in read_key_set(key_set(leaked), "RS256")] == ["leaked"]


class Issuer:
    """A JWKS URL that counts who asks."""

    def __init__(self) -> None:
        self.body = key_set(jwk(RSA, "r1"))
        self.status = 200
        self.asked = 0
        self.url = ""
        self.slow: asyncio.Event | None = None

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.slow is not None:
            await self.slow.wait()
        return web.Response(body=self.body, status=self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/jwks"))
        yield made
        if made.slow is not None:
            made.slow.set()


@pytest.fixture
async def follow(issuer: Issuer) -> AsyncIterator[Callable[[], tuple[RemoteKeySets, KeyRing]]]:
    tasks: list[asyncio.Task[None]] = []

    def follow() -> tuple[RemoteKeySets, KeyRing]:
        sets, ring = RemoteKeySets(), KeyRing("acme", [])
        sets.follow({"acme": (Source(issuer.url, "RS256"), ring)})
        tasks.append(asyncio.create_task(sets.run_forever()))
        return sets, ring

    yield follow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Follow = Callable[[], tuple[RemoteKeySets, KeyRing]]


async def test_a_token_waits_for_the_first_fetch_that_all_share(issuer: Issuer, follow: Follow) -> None:
    sets, ring = follow()
    await asyncio.gather(*(sets.refetch("acme") for _ in range(50)))
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    assert issuer.asked == 1


async def test_an_unknown_kid_is_refetched_once_and_then_cools_down(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, ring = follow()
    await sets.refetch("acme")
    issuer.body = key_set(jwk(OTHER, "r2"))
    await sets.refetch("acme")
    assert issuer.asked == 1, "the cool-down holds"
    with pytest.raises(UnknownKey):
        ring.verify(sign(OTHER, "r2"), NOW)
    monkeypatch.setattr(jwks, "COOL_DOWN_S", 0)
    await sets.refetch("acme")
    assert ring.verify(sign(OTHER, "r2"), NOW).user == "alice"
    with pytest.raises(UnknownKey):
        ring.verify(sign(RSA, "r1"), NOW)


@pytest.mark.parametrize("fault", ["500", "redirect", "not json", "empty", "huge"])
async def test_a_url_that_fails_leaves_the_keys_that_were_there(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sets, ring = follow()
    await sets.refetch("acme")
    monkeypatch.setattr(jwks, "COOL_DOWN_S", 0)
    issuer.status = {"500": 500, "redirect": 302}.get(fault, 200)
    issuer.body = {"not json": b"<html>", "empty": key_set(), "huge": b" " * (jwks.MAX_BYTES + 1)}.get(fault, b"")
    await sets.refetch("acme")
    assert issuer.asked == 2
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"


async def test_nobody_waits_longer_than_a_moment_for_a_slow_url(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "WAIT_S", 0.05)
    issuer.slow = asyncio.Event()
    sets, ring = follow()
    async with asyncio.timeout(1):
        await sets.refetch("acme")
    with pytest.raises(UnknownKey):
        ring.verify(sign(RSA, "r1"), NOW)
    issuer.slow.set()
    await sets.refetch("acme")
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"


async def test_a_reload_keeps_what_was_fetched_from_the_same_url(issuer: Issuer, follow: Follow) -> None:
    sets, _ = follow()
    await sets.refetch("acme")
    ring = KeyRing("acme", [])
    sets.follow({"acme": (Source(issuer.url, "RS256"), ring)})
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    elsewhere = KeyRing("acme", [])
    sets.follow({"acme": (Source("http://127.0.0.1:1/", "RS256"), elsewhere)})
    with pytest.raises(UnknownKey):
        elsewhere.verify(sign(RSA, "r1"), NOW)
    sets.follow({})
    await sets.refetch("acme")


async def test_a_url_that_nobody_answers_is_no_error(follow: Follow) -> None:
    sets, ring = follow()
    sets.follow({"acme": (Source("http://127.0.0.1:1/", "RS256"), ring)})
    await sets.refetch("acme")
    with pytest.raises(UnknownKey):
        ring.verify(sign(RSA, "r1"), NOW)


async def test_a_regular_fetch_opens_no_cool_down(issuer: Issuer, follow: Follow) -> None:
    sets, ring = follow()
    await asyncio.sleep(0)  # the regular fetch begins
    regular = sets._remotes["acme"].fetch
    assert regular is not None
    await regular
    issuer.body = key_set(jwk(OTHER, "rotated"))
    await sets.refetch("acme")
    assert ring.verify(sign(OTHER, "rotated"), NOW).user == "alice"


@pytest.mark.parametrize("alg", [[], {}, 7, None])
def test_an_algorithm_that_is_none_spoils_no_other_key(alg: object) -> None:
    raw = key_set({**jwk(RSA, "bad"), "alg": alg}, jwk(RSA, "good"))
    assert [key.kid for key in read_key_set(raw, "RS256")] == ["good"]
