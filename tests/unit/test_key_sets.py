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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs

from service.background import key_set_fetching, key_set_refresh
from service.background.key_set_refresh import RemoteKeySets, Source
from service.core.errors import InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.claims import ClaimRules
from service.core.tokens.key_sets import KeyRules, read_key_set
from service.core.tokens.keys import make_key
from service.core.tokens.verification import KeyRing, VerifiedTokens

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


def test_keys_are_taken_with_their_algorithm_or_the_configured_one() -> None:
    curve, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    members = [jwk(RSA, "a"), jwk(RSA, "b", alg="PS512"), jwk(curve, "c", alg="ES256"), jwk(edwards, "d", alg="EdDSA")]
    raw = key_set(*members)
    assert [(key.kid, key.alg) for key in read_key_set(raw, RS384).keys] == [
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
    assert [key.kid for key in read_key_set(key_set(member, jwk(RSA, "good")), RS256).keys] == ["good"]
    assert read_key_set(key_set(member), RS256).keys == (), "a set without a key that can be used is a set"


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"keys": 7}', b"[" * 100_000])
def test_what_is_not_a_key_set_is_reported(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a JWK Set"):
        read_key_set(raw, RS256)


def test_a_private_key_in_a_key_set_is_taken_as_its_public_half() -> None:
    leaked = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"kid": "leaked", "key_ops": None}
    assert [key.kid for key in read_key_set(key_set(leaked), RS256).keys] == ["leaked"]


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
        sets.follow([(Source(issuer.url, RS256), ring)])
        tasks.append(asyncio.create_task(sets.run_forever()))
        return sets, ring

    yield follow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Follow = Callable[[], tuple[RemoteKeySets, KeyRing]]


async def test_a_token_waits_for_the_first_fetch_that_all_share(issuer: Issuer, follow: Follow) -> None:
    sets, ring = follow()
    await asyncio.gather(*(sets.refetch(UnknownKey("", ring)) for _ in range(50)))
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    assert issuer.asked == 1


async def test_an_unknown_kid_is_refetched_once_in_the_time_of_the_budget(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, ring = follow()
    await sets.refetch(UnknownKey("", ring))
    await sets.refetch(UnknownKey("", ring))
    issuer.body = key_set(jwk(OTHER, "r2"))
    assert not sets.may_refetch(UnknownKey("", ring))
    await sets.refetch(UnknownKey("", ring))
    assert issuer.asked == 2, "the first, without which nothing could be judged, and one for what is not in it"
    with pytest.raises(UnknownKey):
        ring.verify(sign(OTHER, "r2"), NOW)
    monkeypatch.setattr(key_set_refresh, "BUDGET_S", 0)
    await sets.refetch(UnknownKey("", ring))
    assert ring.verify(sign(OTHER, "r2"), NOW).user == "alice"
    with pytest.raises(UnknownKey):
        ring.verify(sign(RSA, "r1"), NOW)


@pytest.mark.parametrize("fault", ["500", "redirect", "not json", "huge"])
async def test_a_url_that_fails_leaves_the_keys_that_were_there(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sets, ring = follow()
    await sets.refetch(UnknownKey("", ring))
    monkeypatch.setattr(key_set_refresh, "BUDGET_S", 0)
    issuer.status = {"500": 500, "redirect": 302}.get(fault, 200)
    issuer.body = {"not json": b"<html>", "huge": b" " * (key_set_fetching.MAX_BYTES + 1)}.get(fault, b"")
    await sets.refetch(UnknownKey("", ring))
    assert issuer.asked == 2
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"


async def test_nobody_waits_longer_than_a_moment_for_a_slow_url(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set_refresh, "WAIT_S", 0.05)
    issuer.slow = asyncio.Event()
    sets, ring = follow()
    async with asyncio.timeout(1):
        await sets.refetch(UnknownKey("", ring))
    with pytest.raises(KeysUnavailable):
        ring.verify(sign(RSA, "r1"), NOW)
    issuer.slow.set()
    await sets.refetch(UnknownKey("", ring))
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"


async def test_a_reload_keeps_what_was_fetched_from_the_same_url(issuer: Issuer, follow: Follow) -> None:
    sets, first = follow()
    await sets.refetch(UnknownKey("", first))
    ring = KeyRing("acme", [])
    sets.follow([(Source(issuer.url, RS256), ring)])
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    elsewhere = KeyRing("acme", [])
    sets.follow([(Source("http://127.0.0.1:1/", RS256), elsewhere)])
    with pytest.raises(KeysUnavailable):
        elsewhere.verify(sign(RSA, "r1"), NOW)
    sets.follow([])
    await sets.refetch(UnknownKey("", ring))


async def test_a_url_that_nobody_answers_is_no_error(follow: Follow) -> None:
    sets, ring = follow()
    sets.follow([(Source("http://127.0.0.1:1/", RS256), ring)])
    await sets.refetch(UnknownKey("", ring))
    with pytest.raises(KeysUnavailable):
        ring.verify(sign(RSA, "r1"), NOW)


async def test_a_regular_fetch_opens_no_cool_down(issuer: Issuer, follow: Follow) -> None:
    sets, ring = follow()
    await asyncio.sleep(0)  # the regular fetch begins
    regular = sets._remotes["acme", ""].fetch
    assert regular is not None
    await regular
    issuer.body = key_set(jwk(OTHER, "rotated"))
    await sets.refetch(UnknownKey("", ring))
    assert ring.verify(sign(OTHER, "rotated"), NOW).user == "alice"


CURVE = ec.generate_private_key(ec.SECP256R1())
WITHDRAWN: dict[str, bytes] = {
    "no key": key_set(),
    "an EC key without alg": key_set(jwk(CURVE, "e1")),
    "an EC key without alg under the same kid": key_set(jwk(CURVE, "r1")),
    "a kind that is not known": key_set({"kty": "AKP", "kid": "m1", "alg": "ML-DSA-44", "pub": "AAAA"}),
    "a secret": key_set({"kty": "oct", "k": "c2VjcmV0", "kid": "r1", "alg": "HS256"}),
    "the key, for encryption": key_set(jwk(RSA, "r1", use="enc")),
    "what is no key": key_set("text", None, 7),
    "another key of that kid": key_set(jwk(OTHER, "r1")),
    "another key": key_set(jwk(OTHER, "r2")),
}


@pytest.mark.parametrize("how", ["refetch", "refresh"])
@pytest.mark.parametrize("left", WITHDRAWN)
async def test_a_withdrawn_key_verifies_nothing_any_more_whatever_is_left(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch, left: str, how: str
) -> None:
    sets, ring = follow()
    await sets.refetch(UnknownKey("", ring))
    verified, token = VerifiedTokens(), sign(RSA, "r1")
    assert verified.verify(ring, token, NOW).user == "alice"
    monkeypatch.setattr(key_set_refresh, "BUDGET_S", 0)
    issuer.body = WITHDRAWN[left]
    if how == "refresh":
        sets.refresh()
    await sets.refetch(UnknownKey("", ring))
    for given in (token, sign(RSA, "r1"), sign(RSA, None)):
        with pytest.raises(InvalidUserToken):  # 401: the key set is known, the token is not good
            verified.verify(ring, given, NOW)


async def test_the_keys_are_back_when_the_issuer_publishes_them_again(
    issuer: Issuer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set_refresh, "BUDGET_S", 0)
    sets, ring = follow()
    before, issuer.body = issuer.body, key_set()
    await sets.refetch(UnknownKey("", ring))
    assert [one for one in sets.warnings() if "has no usable key" in one]
    issuer.body = before
    await sets.refetch(UnknownKey("", ring))
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    assert not list(sets.warnings())


async def test_a_refresh_while_a_fetch_is_under_way_fetches_once_more(issuer: Issuer, follow: Follow) -> None:
    sets, ring = follow()
    issuer.slow = asyncio.Event()
    first = asyncio.create_task(sets.refetch(UnknownKey("", ring)))
    while not issuer.asked:  # noqa: ASYNC110  # until the issuer has been asked
        await asyncio.sleep(0)
    sets.refresh()  # what the issuer answers to the first fetch may be the old set
    issuer.slow.set()
    await first
    while issuer.asked < 2:  # noqa: ASYNC110  # until it has been asked again
        await asyncio.sleep(0)
    await sets.refetch(UnknownKey("", ring))
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"
    assert issuer.asked == 2


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


@pytest.fixture
async def following(issuer: Issuer) -> AsyncIterator[Subscription]:
    made = Subscription(issuer, 3600)
    yield made
    await made.close()


def verdict(ring: KeyRing, token: str) -> str:
    try:
        return ring.verify(token, NOW).user
    except (InvalidUserToken, KeysUnavailable) as error:
        return type(error).__name__


async def test_keys_outlive_fetches_that_fail_for_the_configured_age_and_no_longer(following: Subscription) -> None:
    issuer, ring, sets = following.issuer, following.ring, following.sets
    verified, token = VerifiedTokens(), sign(RSA, "r1")
    await following.fetch(0)
    assert verified.verify(ring, token, NOW).user == "alice"
    issuer.status = 500
    await following.fetch(3600)
    assert verified.verify(ring, token, NOW).user == "alice"
    assert list(sets.warnings()) == [
        "the key set of tenant acme could not be fetched (it answered 500); the keys fetched 3600 s ago are used for "
        "up to 0 s more"
    ]
    following.clock.now += 1
    sets.look_after()
    with pytest.raises(KeysUnavailable):
        verified.verify(ring, token, NOW)
    assert "are answered 503" in next(iter(sets.warnings()))
    issuer.status = 200
    await following.fetch(0)
    assert verified.verify(ring, token, NOW).user == "alice"
    assert not list(sets.warnings())
    assert following.fetched == [("acme", True), ("acme", False), ("acme", True)]


async def test_the_age_counts_only_while_fetches_fail(following: Subscription) -> None:
    await following.fetch(0)
    following.follow(60)
    following.clock.now += 500  # the next regular fetch is due after 600
    following.sets.look_after()
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"


async def test_an_age_of_zero_keeps_no_keys_past_a_fetch_that_fails(following: Subscription) -> None:
    following.follow(0)
    await following.fetch(0)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"
    following.issuer.status = 500
    await following.fetch(1)
    assert verdict(following.ring, sign(RSA, "r1")) == "KeysUnavailable"


async def test_a_shorter_age_holds_with_the_reload_that_sets_it(following: Subscription) -> None:
    await following.fetch(0)
    following.issuer.status = 500
    await following.fetch(100)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"
    following.follow(50)
    following.sets.look_after()
    assert verdict(following.ring, sign(RSA, "r1")) == "KeysUnavailable"


async def test_a_fetch_that_fails_is_repeated_soon(following: Subscription) -> None:
    await following.fetch(0)
    following.issuer.status = 500
    await following.fetch(600)
    asked = following.issuer.asked
    following.issuer.status = 200
    following.clock.now += key_set_refresh.RETRY_S
    following.sets.look_after()
    await following.sets.refetch(UnknownKey("", following.ring))
    assert following.issuer.asked == asked + 1
    assert not list(following.sets.warnings())


OWN = jwt.encode({"sub": "alice", "exp": NOW + 60}, "s" * 32, algorithm="HS256", headers={"kid": "own"})
SYMMETRIC = jwt.encode({"sub": "alice", "exp": NOW + 60}, "s" * 32, algorithm="HS256", headers={"kid": "r9"})
VERDICTS: dict[str, tuple[str, str, str, str]] = {
    # token → where no fetch has succeeded, after a good fetch, after a good one without a key, after one that failed
    sign(RSA, "r1"): ("KeysUnavailable", "alice", "UnknownKey", "alice"),
    sign(OTHER, "r1"): ("KeysUnavailable", "UnknownKey", "UnknownKey", "UnknownKey"),
    sign(OTHER, "r9"): ("KeysUnavailable", "UnknownKey", "UnknownKey", "KeysUnavailable"),
    sign(RSA, None): ("KeysUnavailable", "alice", "UnknownKey", "alice"),
    sign(OTHER, None): ("KeysUnavailable", "UnknownKey", "UnknownKey", "UnknownKey"),
    OWN: ("alice", "alice", "alice", "alice"),
    SYMMETRIC: ("InvalidUserToken",) * 4,
}


async def test_a_token_is_judged_unless_the_key_set_that_may_hold_its_key_could_not_be_fetched(
    following: Subscription,
) -> None:
    issuer, ring = following.issuer, following.ring
    good = issuer.body

    def verdicts() -> list[str]:
        return [verdict(ring, token) for token in VERDICTS]

    def expected(at: int) -> list[str]:
        return [reported[at] for reported in VERDICTS.values()]

    assert verdicts() == expected(0), "no fetch has ended yet"
    issuer.status = 500
    await following.fetch(0)
    assert verdicts() == expected(0)
    issuer.status = 200
    await following.fetch(60)
    assert verdicts() == expected(1)
    issuer.body = key_set()
    await following.fetch(60)
    assert verdicts() == expected(2)
    issuer.body = good
    await following.fetch(60)
    issuer.status = 500
    await following.fetch(60)
    assert verdicts() == expected(3)


async def test_a_fetch_that_fails_in_any_way_is_a_fetch_that_failed(
    following: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> bytes:
        raise RuntimeError("Session is closed")

    await following.fetch(0)
    monkeypatch.setattr(key_set_fetching.Fetcher, "get", broken)
    await following.fetch(0)
    assert "(RuntimeError)" in next(iter(following.sets.warnings()))
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"


async def test_keys_that_are_the_same_leave_verified_tokens_verified(following: Subscription) -> None:
    await following.fetch(0)
    generation = following.ring.generation
    following.issuer.body = key_set(jwk(RSA, "r1")) + b" "
    await following.fetch(60)
    following.issuer.status = 500
    await following.fetch(60)
    assert following.ring.generation is generation


@pytest.mark.parametrize("alg", [[], {}, 7, ""])
def test_an_algorithm_that_is_none_spoils_no_other_key(alg: object) -> None:
    raw = key_set({**jwk(RSA, "bad"), "alg": alg}, jwk(RSA, "good"))
    assert [key.kid for key in read_key_set(raw, RS256).keys] == ["good"]


async def test_tokens_that_a_held_key_does_not_verify_and_tokens_of_an_unknown_kid_have_a_budget_each(
    following: Subscription,
) -> None:
    sets, ring, issuer, clock = following.sets, following.ring, following.issuer, following.clock
    unknown, failed = UnknownKey("", ring), UnknownKey("", ring, is_announced=False)
    await following.fetch(0)
    asked = issuer.asked

    async def fetches(error: UnknownKey) -> int:
        before = issuer.asked
        await sets.refetch(error)
        return issuer.asked - before

    assert [await fetches(unknown), await fetches(unknown)] == [1, 0]
    assert [await fetches(failed), await fetches(failed)] == [1, 0]
    clock.now += key_set_refresh.BUDGET_S - 0.1
    assert [await fetches(unknown), await fetches(failed)] == [0, 0]
    await following.fetch(0)  # SIGHUP
    assert issuer.asked == asked + 3
    clock.now += 0.1
    assert [await fetches(unknown), await fetches(failed)] == [1, 1], "what SIGHUP asked for does not count"


async def test_one_made_up_kid_does_not_shut_out_a_rotation_for_longer_than_the_budget(following: Subscription) -> None:
    issuer, ring = following.issuer, following.ring
    await following.fetch(0)
    await following.sets.refetch(UnknownKey("", ring))  # of a made-up kid
    issuer.body = key_set(jwk(OTHER, "r2"))
    following.clock.now += 6
    with pytest.raises(UnknownKey) as unknown:
        ring.verify(sign(OTHER, "r2"), NOW)
    await following.sets.refetch(unknown.value)
    assert ring.verify(sign(OTHER, "r2"), NOW).user == "alice"


@pytest.mark.parametrize("kid", ["r1", None])
async def test_a_rotation_that_no_kid_announces_is_found_by_the_first_token_that_fails(
    following: Subscription, kid: str | None
) -> None:
    issuer, ring = following.issuer, following.ring
    issuer.body = key_set(jwk(RSA, kid))
    await following.fetch(0)
    assert ring.verify(sign(RSA, kid), NOW).user == "alice"
    issuer.body = key_set(jwk(OTHER, kid))
    with pytest.raises(UnknownKey) as failed:
        ring.verify(sign(OTHER, kid), NOW)
    assert not failed.value.is_announced
    await following.sets.refetch(failed.value)
    assert ring.verify(sign(OTHER, kid), NOW).user == "alice"
    assert verdict(ring, sign(RSA, kid)) == "UnknownKey"


async def test_a_token_that_a_key_of_the_configuration_does_not_verify_asks_for_no_fetch(
    following: Subscription,
) -> None:
    following.issuer.body = key_set(jwk(RSA, "r1"))
    ring = KeyRing("acme", [make_key("c1", "RS256", pem(OTHER))])
    following.sets.follow([(Source(following.issuer.url), ring)])
    await following.sets.refetch(UnknownKey("", ring))
    assert verdict(ring, sign(OTHER, "c1")) == "alice"
    assert verdict(ring, sign(RSA, "c1")) == "InvalidUserToken"


async def test_while_no_key_set_is_held_every_request_waits_for_a_fetch_and_the_first_good_one_ends_it(
    issuer: Issuer, follow: Follow
) -> None:
    issuer.status = 500
    sets, ring = follow()
    for _ in range(2):
        with pytest.raises(KeysUnavailable) as unavailable:
            ring.verify(sign(RSA, "r1"), NOW)
        assert sets.may_refetch(unavailable.value)
        await sets.refetch(unavailable.value)
    issuer.status = 200
    await sets.refetch(unavailable.value)
    assert ring.verify(sign(RSA, "r1"), NOW).user == "alice"


async def test_while_no_key_set_is_held_the_issuer_is_not_asked_in_a_tight_loop(issuer: Issuer, follow: Follow) -> None:
    issuer.status = 500
    sets, ring = follow()
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        await asyncio.gather(*(sets.refetch(UnknownKey("", ring)) for _ in range(20)))
    took = asyncio.get_running_loop().time() - began
    assert issuer.asked <= 1 + took / key_set_refresh.WITHOUT_KEYS_S


async def test_a_kid_that_is_held_for_another_algorithm_is_looked_for_and_the_log_says_what_it_is_for(
    following: Subscription,
) -> None:
    await following.fetch(0)
    token = jwt.encode({"sub": "alice", "exp": NOW + 60}, RSA, algorithm="PS256", headers={"kid": "r1"})
    with pytest.raises(UnknownKey) as refused:
        following.ring.verify(token, NOW)
    wrong = "signed with PS256, and the key of its kid is for RS256 (its alg, jwt.algorithms, jwt.jwks_alg)"
    assert refused.value.reason == wrong


async def test_each_key_that_is_not_used_is_logged_once_with_why(following: Subscription) -> None:
    body = key_set(jwk(RSA, "r1"), jwk(RSA, "enc", use="enc"), {"kty": "AKP", "kid": "ml"})
    with capture_logs() as logs:
        for number in range(3):
            following.issuer.body = body + b" " * number
            await following.fetch(0)
    assert [line["reason"] for line in logs if line["event"] == "jwks key not used"] == [
        "kid enc: its use is not sig",
        "kid ml: of a kind or curve that is not supported",
    ]


async def test_the_log_names_the_keys_with_their_thumbprints(following: Subscription) -> None:
    with capture_logs() as logs:
        await following.fetch(0)
    [line] = [line for line in logs if line["event"] == "jwks fetched"]
    assert line["keys"] == [f"r1 RS256 {make_key('r1', 'RS256', pem(RSA)).thumbprint()}"]


@pytest.mark.parametrize(
    ("said", "every_s"),
    [(None, 600), ("max-age=300", 300), ("public, max-age=1", 60), ("max-age=86400", 3600), ("no-store", 600)],
)
async def test_the_next_regular_fetch_is_as_the_issuer_says_within_a_minute_and_an_hour(
    following: Subscription, said: str | None, every_s: int
) -> None:
    following.issuer.headers = {} if said is None else {"cache-control": said}
    await following.fetch(0)
    asked = following.issuer.asked
    following.clock.now += every_s - 1
    following.sets.look_after()
    await asyncio.sleep(0.05)
    assert following.issuer.asked == asked
    following.clock.now += 1
    following.sets.look_after()
    await following.sets.refetch(UnknownKey("", following.ring))
    assert following.issuer.asked == asked + 1


async def test_what_is_unchanged_is_not_sent_again(following: Subscription) -> None:
    issuer, ring = following.issuer, following.ring
    issuer.headers = {"etag": '"one"'}
    await following.fetch(0)
    generation = ring.generation
    issuer.status = 500
    await following.fetch(60)
    issuer.status = 304
    await following.fetch(60)
    assert issuer.conditions == [None, '"one"', '"one"']
    assert ring.generation is generation
    assert not list(following.sets.warnings()), "an answer of 304 is a fetch that succeeded"
    issuer.headers, issuer.status, issuer.body = {"etag": '"two"'}, 200, key_set(jwk(OTHER, "r2"))
    await following.fetch(60)
    assert verdict(ring, sign(OTHER, "r2")) == "alice"


async def test_an_answer_of_304_to_a_first_fetch_is_a_failure(following: Subscription) -> None:
    following.issuer.status = 304
    await following.fetch(0)
    assert "it answered 304" in next(iter(following.sets.warnings()))


class Provider:
    """An OpenID provider: its metadata, and where its keys are."""

    def __init__(self, issuer: Issuer) -> None:
        self.keys, self.base, self.asked = issuer, "", list[str]()
        self.metadata: dict[str, Any] = {"jwks_uri": issuer.url}
        self.at = "/.well-known/openid-configuration"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.json_response(self.metadata) if request.path == self.at else web.Response(status=404)


@pytest.fixture
async def provider(issuer: Issuer) -> AsyncIterator[Provider]:
    app, made = web.Application(), Provider(issuer)
    app.router.add_get("/{path:.*}", made.answer)
    async with TestServer(app) as server:
        made.base = made.metadata["issuer"] = str(server.make_url("/")).rstrip("/")
        yield made


async def discover(following: Subscription, issuer: str) -> list[str]:
    """Have the key set found by the metadata of an issuer; return what `/readyz` says of it."""
    following.sets.follow([(Source("", discover_from=issuer), following.ring)])
    await following.fetch(0)
    return list(following.sets.warnings())


async def test_the_key_set_is_found_by_the_metadata_of_the_issuer(following: Subscription, provider: Provider) -> None:
    assert not await discover(following, provider.base)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"
    await following.fetch(600)
    assert provider.asked == [provider.at], "the metadata is asked for once an hour"
    await following.fetch(3600)
    assert provider.asked == [provider.at] * 2


@pytest.mark.parametrize("path", ["", "/realm", "/realm/", "/a/b"])
@pytest.mark.parametrize(
    "where", ["{path}/.well-known/openid-configuration", "/.well-known/oauth-authorization-server{path}"]
)
async def test_metadata_is_looked_for_where_either_standard_has_it(
    following: Subscription, provider: Provider, path: str, where: str
) -> None:
    issuer = provider.metadata["issuer"] = provider.base + path
    provider.at = where.format(path=path.rstrip("/"))
    assert not await discover(following, issuer)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"issuer": "https://other.example"}, "the issuer of the metadata is not jwt.issuer"),
        ({"issuer": None}, "the issuer of the metadata is not jwt.issuer"),
        ({"jwks_uri": None}, "holds no jwks_uri"),
        ({"jwks_uri": "file:///etc/passwd"}, "holds no jwks_uri"),
        ({"jwks_uri": ["https://a.example"]}, "holds no jwks_uri"),
    ],
)
async def test_metadata_that_is_not_the_issuers_is_not_used(
    following: Subscription, provider: Provider, changed: dict[str, Any], why: str
) -> None:
    provider.metadata |= changed
    [warning] = await discover(following, provider.base)
    assert why in warning
    assert verdict(following.ring, sign(RSA, "r1")) == "KeysUnavailable"


async def test_a_slash_at_the_end_makes_another_issuer(following: Subscription, provider: Provider) -> None:
    [warning] = await discover(following, f"{provider.base}/")
    assert "they have to be equal to the letter" in warning


async def test_after_a_failure_the_metadata_is_asked_again(following: Subscription, provider: Provider) -> None:
    assert not await discover(following, provider.base)
    provider.keys.status = 404
    await following.fetch(600)
    provider.keys.status = 200
    await following.fetch(10)
    assert provider.asked == [provider.at] * 2
    assert not list(following.sets.warnings())


async def test_of_several_issuers_the_log_and_readyz_name_the_one_that_fails(
    issuer: Issuer, following: Subscription
) -> None:
    good, bad = (KeyRing("acme", [], ClaimRules("acme", issuer=f"https://{name}.example")) for name in ("a", "b"))
    following.sets.follow([(Source(issuer.url), good), (Source("http://127.0.0.1:1/"), bad)])
    with capture_logs() as logs:
        following.sets.refresh()
        for ring in (good, bad):
            await following.sets.refetch(UnknownKey("", ring))
    levels = {line["issuer"]: line["log_level"] for line in logs if "fetched" in line["event"]}
    assert levels == {"https://a.example": "info", "https://b.example": "warning"}
    [warning] = following.sets.warnings()
    assert warning.startswith("the key set of tenant acme (https://b.example) could not be fetched")
    following.sets.follow([(Source(issuer.url), good)])
    token = jwt.encode({"iss": "https://a.example", "sub": "alice", "exp": NOW + 60}, RSA, algorithm="RS256")
    assert verdict(good, token) == "alice", "its keys stay when another source goes"
