"""Tokens with arbitrary content that must not be accepted: refused as tokens are."""

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.core.errors import ExpiredUserToken, InvalidUserToken, UnknownKey
from service.core.tokens.claims import Identity, is_user_id
from service.core.tokens.keys import Key, make_key
from service.core.tokens.verification import KeyRing
from tests.fuzz.bounds import TIMEOUT_S, tried

pytestmark = pytest.mark.timeout(TIMEOUT_S)
NOW = 1_800_000_000.0
SECRET = "s" * 32
PUBLIC = jwt.PyJWK.from_dict(
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
).key
RING = KeyRing("acme", [make_key("k", "HS256", SECRET), make_key("h", "HS512", "h" * 64), Key("e", "ES256", PUBLIC)])
REFUSALS = (InvalidUserToken, ExpiredUserToken, UnknownKey)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
MOMENTS = st.one_of(st.sampled_from((NOW, NOW + 60, NOW - 60, 1e300, -1, 0, True, "1", None, 2**70)), JSON)
CLAIMS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"sub": st.one_of(st.text(max_size=140), JSON), "exp": MOMENTS},
        optional={"nbf": MOMENTS, "iat": MOMENTS, "tenant": st.one_of(st.just("acme"), JSON), "aud": JSON, "iss": JSON},
    ),
)
HEADS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"alg": st.one_of(st.sampled_from(("HS256", "HS512", "ES256", "none", "None", "hs256", "RS256", "")), JSON)},
        optional={
            "kid": st.one_of(st.sampled_from(("k", "h", "e", "", "x")), JSON),
            "crit": JSON,
            "b64": JSON,
            "typ": JSON,
            "jwk": JSON,
            "zip": JSON,
        },
    ),
)


def text_of(content: Any) -> bytes:
    """As JSON; sometimes with what is none (NaN, lone surrogates), as whoever forges would write it."""
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def spelt(*parts: bytes) -> str:
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def signed(head: Any, claims: Any, secret: str, alg: str = "HS256") -> str:
    reported = spelt(text_of(head), text_of(claims))
    return f"{reported}.{spelt(jwt.get_algorithm_by_name(alg).sign(reported.encode(), secret.encode()))}"


def verified(token: str) -> Identity | None:
    """Who it names; None where it is refused as tokens are refused."""
    try:
        return RING.verify(token, NOW)
    except REFUSALS:
        return None


GOOD = signed({"alg": "HS256", "kid": "k"}, {"sub": "alice", "exp": NOW + 60, "iat": NOW}, SECRET)


@tried()
@given(st.one_of(st.text(), st.lists(st.text(max_size=40), min_size=3, max_size=3).map(".".join)))
def test_text_is_no_token(token: str) -> None:
    assert verified(token) is None


@tried()
@given(st.one_of(HEADS, st.binary(max_size=60)), st.one_of(CLAIMS, st.binary(max_size=60)))
def test_of_what_we_signed_only_a_user_whose_time_has_come_and_is_not_over_is_accepted(head: Any, claims: Any) -> None:
    identity = verified(signed(head, claims, SECRET))
    if identity is not None:
        assert isinstance(head, dict)
        assert isinstance(claims, dict)
        assert head["alg"] == "HS256"
        assert head.get("kid") in (None, "k")
        assert not head.get("crit")
        assert is_user_id(claims["sub"])
        assert identity.user == claims["sub"]
        assert claims["exp"] > NOW >= max(claims.get("nbf", 0), claims.get("iat", 0))
        assert claims.get("tenant", "acme") == "acme" == identity.tenant


@tried()
@given(HEADS, CLAIMS, st.sampled_from(("x" * 32, "", "h" * 64)), st.sampled_from(("HS256", "HS384", "HS512", "none")))
def test_what_we_did_not_sign_is_never_accepted(head: Any, claims: Any, secret: str, alg: str) -> None:
    ours = alg == "HS512" and secret == "h" * 64 and isinstance(head, dict) and head.get("alg") == "HS512"
    claims = {"sub": "mallory", "exp": NOW + 60} if not isinstance(claims, dict) else {**claims, "exp": NOW + 60}
    token = f"{spelt(text_of(head), text_of(claims))}." if alg == "none" else signed(head, claims, secret, alg)
    assert ours or verified(token) is None


@tried()
@given(st.data())
def test_a_good_token_that_was_changed_is_not_good(data: st.DataObject) -> None:
    """Not even in how its signature is spelt: Base64 is strict."""
    at = data.draw(st.integers(0, len(GOOD)))
    gone = data.draw(st.integers(0, 3))
    added = data.draw(st.text(alphabet=st.one_of(st.sampled_from("aA0_-+/=.!% \n\t"), st.characters()), max_size=3))
    changed = GOOD[:at] + added + GOOD[at + gone :]
    assume(changed != GOOD)
    assert verified(GOOD) is not None
    assert verified(changed) is None
