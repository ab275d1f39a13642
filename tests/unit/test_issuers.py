"""Several issuers of one tenant: each token is judged by its own issuer's block alone."""

import json
from typing import Any

import jwt
import pytest

from service.core.errors import ExpiredUserToken, InvalidUserToken, UnknownKey
from service.core.tokens.issuers import Issuers
from service.core.tokens.keys import make_key
from service.core.tokens.verification import VerifiedTokens
from service.demo_tokens import NoSigningSecret
from service.demo_tokens import sign as demo_token
from service.policy_factory import make_policy, sweep_rules
from tests.kit import TENANT_TOKEN, settings

NOW = 1_800_000_000.0
STAFF, SHOP = "https://staff.example", "https://shop.example"
SECRETS = {STAFF: "s" * 32, SHOP: "h" * 32}
BLOCKS: list[dict[str, Any]] = [
    {
        "issuer": STAFF,
        "keys": [{"kid": "k", "alg": "HS256", "secret": SECRETS[STAFF]}],
        "user_prefix": "staff:",
        "audience": "intranet",
        "leeway": 60,
    },
    {
        "issuer": SHOP,
        "keys": [{"kid": "k", "alg": "HS256", "secret": SECRETS[SHOP]}],
        "subject_claim": "user_id",
        "integer_sub": True,
        "types": ["at+jwt"],
    },
]


def made(*blocks: dict[str, Any]) -> Any:
    return settings(tenants={"acme": {"token": TENANT_TOKEN, "jwt": list(blocks or BLOCKS)}})


def issuers(*blocks: dict[str, Any]) -> Issuers:
    verifier = make_policy(made(*blocks)).directory.tenants["acme"].ring
    assert isinstance(verifier, Issuers)
    return verifier


def sign(issuer: Any, secret: str = "", typ: str | None = None, **claims: Any) -> str:
    content = {"iss": issuer, "exp": NOW + 60, **claims}
    content = {name: value for name, value in content.items() if value is not None}
    headers = {"kid": "k"} | ({"typ": typ} if typ else {})
    return jwt.encode(content, secret or SECRETS[issuer], algorithm="HS256", headers=headers)


STAFF_TOKEN = sign(STAFF, sub="alice", aud="intranet")
SHOP_TOKEN = sign(SHOP, user_id=7, typ="at+jwt")


def test_each_token_is_judged_by_the_block_of_its_issuer() -> None:
    own = issuers()
    assert own.verify(STAFF_TOKEN, NOW).user == "staff:alice"
    assert own.verify(SHOP_TOKEN, NOW).user == "7"


@pytest.mark.parametrize(
    "token",
    [
        sign(STAFF, SECRETS[SHOP], sub="alice", aud="intranet"),
        sign(SHOP, SECRETS[STAFF], user_id="alice", typ="at+jwt"),
        sign(STAFF, sub="alice"),
        sign(STAFF, user_id="alice", aud="intranet"),
        sign(STAFF, sub=7, aud="intranet"),
        sign(SHOP, sub="alice", typ="at+jwt"),
        sign(SHOP, user_id="alice"),
        sign(None, SECRETS[SHOP], user_id="alice", typ="at+jwt"),
        sign("https://other.example", SECRETS[SHOP], user_id="alice", typ="at+jwt"),
        sign(f"{SHOP}/", SECRETS[SHOP], user_id="alice", typ="at+jwt"),
        sign(SHOP.upper(), SECRETS[SHOP], user_id="alice", typ="at+jwt"),
        "a.b.c",
        "",
        STAFF_TOKEN.rpartition(".")[0] + ".",
    ],
)
def test_neither_keys_nor_rules_of_another_block_count(token: str) -> None:
    with pytest.raises(InvalidUserToken):
        issuers().verify(token, NOW)


def test_an_issuer_that_is_not_a_string_is_refused() -> None:
    for issuer in ([SHOP], {"iss": SHOP}, 7, True):
        claims = json.dumps({"iss": issuer, "user_id": "a", "exp": NOW + 60}).encode()
        token = jwt.PyJWS().encode(claims, SECRETS[SHOP], "HS256", {"kid": "k", "typ": "at+jwt"})
        with pytest.raises(InvalidUserToken):
            issuers().verify(token, NOW)


def test_no_user_of_one_issuer_passes_for_one_of_another() -> None:
    own = issuers()
    with pytest.raises(InvalidUserToken) as refused:
        own.verify(sign(SHOP, user_id="staff:alice", typ="at+jwt"), NOW)
    assert refused.value.reason == "user_id begins with the user_prefix of another issuer"
    blocks = [{**BLOCKS[0], "user_prefix": "a"}, {**BLOCKS[1], "user_prefix": "ab"}]
    assert issuers(*blocks).verify(sign(STAFF, sub="c", aud="intranet"), NOW).user == "ac"
    with pytest.raises(InvalidUserToken):
        issuers(*blocks).verify(sign(STAFF, sub="bc", aud="intranet"), NOW)
    assert issuers(*blocks).verify(sign(SHOP, user_id="c", typ="at+jwt"), NOW).user == "abc"


def test_a_prefix_counts_to_the_length_of_a_user() -> None:
    assert issuers().verify(sign(STAFF, sub="x" * 506, aud="intranet"), NOW).user == f"staff:{'x' * 506}"
    with pytest.raises(InvalidUserToken):
        issuers().verify(sign(STAFF, sub="x" * 507, aud="intranet"), NOW)


def test_each_issuer_has_its_own_leeway_also_for_tokens_that_were_verified_before() -> None:
    own, verified = issuers(), VerifiedTokens()
    for at_s, token, good in ((119, STAFF_TOKEN, True), (120, STAFF_TOKEN, False), (60, SHOP_TOKEN, False)):
        assert verified.verify(own, token, NOW).user in ("staff:alice", "7")
        if good:
            assert verified.verify(own, token, NOW + at_s).user == "staff:alice"
        else:
            with pytest.raises(ExpiredUserToken):
                verified.verify(own, token, NOW + at_s)
    assert own.leeway_s == 60
    assert sweep_rules(made()).leeways_ms["acme"] == 60_000


def test_a_key_that_one_issuer_withdraws_takes_its_tokens_with_it_and_leaves_the_others() -> None:
    blocks = [{**BLOCKS[0], "keys": [], "jwks_url": "https://staff.example/jwks"}, BLOCKS[1]]
    own, verified = issuers(*blocks), VerifiedTokens()
    staff = own.rings[0]
    staff.replace_remote([make_key("k", "HS256", SECRETS[STAFF])])
    assert verified.verify(own, STAFF_TOKEN, NOW).user == "staff:alice"
    assert verified.verify(own, SHOP_TOKEN, NOW).user == "7"
    generation = own.generation
    assert own.generation is generation
    staff.replace_remote([])
    with pytest.raises(InvalidUserToken):
        verified.verify(own, STAFF_TOKEN, NOW)
    assert verified.verify(own, SHOP_TOKEN, NOW).user == "7"


def test_an_unknown_key_is_looked_for_at_the_issuer_of_the_token() -> None:
    blocks = [{**BLOCKS[0], "keys": [], "jwks_url": "https://staff.example/jwks"}, BLOCKS[1]]
    own = issuers(*blocks)
    own.rings[0].replace_remote([])
    header = jwt.utils.base64url_encode(b'{"alg":"RS256","kid":"k9"}').decode()
    with pytest.raises(UnknownKey) as unknown:
        own.verify(f"{header}.{STAFF_TOKEN.partition('.')[2]}", NOW)
    assert unknown.value.ring is own.rings[0]


def test_a_demo_token_is_signed_by_the_block_whose_users_begin_so() -> None:
    own = made({**BLOCKS[0]}, {**BLOCKS[1], "user_prefix": "shop:"})
    for user in ("staff:alice", "shop:bob"):
        token = demo_token(own, "acme", user, 60)
        at = jwt.decode(token, options={"verify_signature": False})["iat"]
        assert make_policy(own).directory.tenants["acme"].ring.verify(token, at).user == user
    with pytest.raises(NoSigningSecret, match="users that begin with staff: or shop:"):
        demo_token(own, "acme", "carol", 60)


def test_a_single_block_in_a_list_is_as_one_without() -> None:
    block = {"keys": [{"alg": "HS256", "secret": "s" * 32}]}
    own = make_policy(made(block)).directory.tenants["acme"].ring
    assert own.verify(jwt.encode({"sub": "alice", "exp": NOW + 60}, "s" * 32), NOW).user == "alice"
