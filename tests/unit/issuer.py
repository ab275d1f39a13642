"""An issuer whose key set is fetched, and the subscription of one tenant to it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.background.key_set_refresh import RemoteKeySets, Source
from service.core.errors import InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.key_sets import KeyRules
from service.core.tokens.keys import make_key
from service.core.tokens.verification import KeyRing

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOW = 1_800_000_000.0
RS256, RS384 = KeyRules(default="RS256"), KeyRules(default="RS384")


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


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def sign(private: Any, kid: str | None) -> str:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode({"sub": "alice", "exp": NOW + 60}, private, algorithm="RS256", headers=headers)


class Issuer:
    """A JWKS URL that counts its requests."""

    def __init__(self) -> None:
        self.body = key_set(jwk(RSA, "r1"))
        self.status = 200
        self.asked = 0
        self.url = ""
        self.slow: asyncio.Event | None = None
        self.headers: dict[str, str] = {}
        self.conditions: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.conditions.append(request.headers.get("if-none-match"))
        if self.slow is not None:
            await self.slow.wait()
        body = None if self.status == 304 else self.body
        return web.Response(body=body, status=self.status, headers=self.headers)


Follow = Callable[[], tuple[RemoteKeySets, KeyRing]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Subscription:
    """One tenant's key set, with a clock of the test's own, and each fetch asked for by the test."""

    def __init__(self, issuer: Issuer, max_age_s: float) -> None:
        self.clock = Clock()
        self.fetched: list[tuple[str, bool]] = []
        self.sets = RemoteKeySets(self.clock, lambda tenant, succeeded, _: self.fetched.append((tenant, succeeded)))
        self.ring = KeyRing("acme", [make_key("own", "HS256", "s" * 32)])
        self.issuer = issuer
        self.follow(max_age_s)

    def follow(self, max_age_s: float) -> None:
        self.sets.follow([(Source(self.issuer.url, RS256, max_age_s=max_age_s), self.ring)])

    async def fetch(self, after_s: float) -> None:
        self.clock.now += after_s
        self.sets.refresh()
        await self.sets.refetch(UnknownKey("", self.ring))

    async def close(self) -> None:
        task = asyncio.create_task(self.sets.run_forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def verdict(ring: KeyRing, token: str) -> str:
    try:
        return ring.verify(token, NOW).user
    except (InvalidUserToken, KeysUnavailable) as error:
        return type(error).__name__
