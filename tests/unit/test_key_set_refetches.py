"""When a token has its key set fetched again, and how often it may."""

import asyncio

import pytest

from service.background import key_set_refresh
from service.background.key_set_refresh import Source
from service.core.errors import KeysUnavailable, UnknownKey
from service.core.tokens.keys import make_key
from service.core.tokens.verification import KeyRing
from tests.unit.issuer import NOW, OTHER, RSA, Follow, Issuer, Subscription, jwk, key_set, pem, sign, verdict


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
