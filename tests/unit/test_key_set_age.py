"""For how long keys are kept: until a fetch withdraws them, or until fetches have failed for too long."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from service.background import key_set_refresh
from service.core.errors import InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.verification import VerifiedTokens
from tests.unit.issuer import NOW, OTHER, RSA, Follow, Issuer, Subscription, jwk, key_set, sign, verdict

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
