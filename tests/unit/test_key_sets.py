"""Remote key sets: which keys are taken from them, when they are fetched, and which keys remain when that fails."""

import asyncio
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from structlog.testing import capture_logs

from service.background import key_set_fetching, key_set_refresh
from service.background.key_set_refresh import Source
from service.core.errors import KeysUnavailable, UnknownKey
from service.core.tokens.key_sets import read_key_set
from service.core.tokens.keys import make_key
from service.core.tokens.verification import KeyRing
from tests.unit.issuer import (
    NOW,
    OTHER,
    RS256,
    RS384,
    RSA,
    Follow,
    Issuer,
    Subscription,
    jwk,
    key_set,
    pem,
    sign,
    verdict,
)


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
