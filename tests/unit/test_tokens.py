"""Tokens: every kind of key, and what a token must be. The clock is passed in."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448, rsa

from service.core.errors import ExpiredUserToken, InvalidUserToken, UnknownKey
from service.core.tokens.claims import is_user_id
from service.core.tokens.keys import ALGORITHMS, make_key
from tests.unit.signing import BODY, EC256, EC384, GOOD, HEAD, NOW, RSA, SECRET, SIGNATURE, key, pem, raw, ring, sign

HEADER = '{"alg":"HS256","kid":"k"}'


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_supported_algorithm_verifies(alg: str) -> None:
    identity = ring(key(alg)).verify(sign(alg, iat=NOW), NOW)
    assert (identity.tenant, identity.user) == ("acme", "alice")
    assert (identity.expires_ms, identity.issued_s) == ((NOW + 60) * 1000, NOW)


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("other", ALGORITHMS)
def test_the_algorithm_is_the_keys_never_the_tokens(alg: str, other: str) -> None:
    token = sign(alg)
    if alg == other:
        return
    with pytest.raises(InvalidUserToken):
        ring(key(other)).verify(token, NOW)


def test_a_public_key_is_no_hmac_secret() -> None:
    forged = raw('{"alg":"HS256","kid":"k"}', json.dumps({"sub": "a", "exp": NOW + 9}), secret=pem(RSA))
    with pytest.raises(InvalidUserToken):
        ring(key("RS256")).verify(forged, NOW)
    with pytest.raises(ValueError, match="not a key for HS256"):
        make_key("k", "HS256", pem(RSA))


def test_a_kid_names_the_one_key_and_none_tries_each_of_the_algorithm() -> None:
    other = make_key("other", "HS256", "o" * 32)
    both = ring(other, key("HS256"))
    assert both.verify(sign(headers={}), NOW).user == "alice"
    assert both.verify(sign(headers={"kid": "k"}), NOW).user == "alice"
    with pytest.raises(InvalidUserToken):
        both.verify(sign(headers={"kid": "other"}), NOW)
    with pytest.raises(InvalidUserToken):
        both.verify(sign("RS256", headers={"kid": "nobody"}), NOW)
    both.replace_remote([])
    with pytest.raises(UnknownKey):
        both.verify(sign("RS256", headers={"kid": "nobody"}), NOW)
    with pytest.raises(InvalidUserToken) as reported:
        both.verify(sign(headers={"kid": "nobody"}), NOW)
    assert not isinstance(reported.value, UnknownKey), "no URL brings a secret, so none is fetched"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ...},
        {"sub": ""},
        {"sub": "x" * 513},
        {"sub": "a\nb"},
        {"sub": "a\x7f"},
        {"sub": "a\x85"},
        {"exp": ...},
        {"exp": 253_402_300_800},
        {"nbf": NOW + 5.1},
        {"iat": NOW + 5.1},
        {"tenant": "globex"},
        {"tenant": ["acme"]},
    ],
)
def test_claims_that_are_not_right_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidUserToken):
        ring().verify(sign(**claims), NOW)


@pytest.mark.parametrize(
    "payload",
    [
        '{"sub": 1, "exp": 1900000000}',
        '{"sub": {"a": 1}, "exp": 1900000000}',
        '{"sub": null, "exp": 1900000000}',
        '{"sub": "\\ud800", "exp": 1900000000}',
        '{"sub": "a", "exp": "1900000000"}',
        '{"sub": "a", "exp": true}',
        '{"sub": "a", "exp": null}',
        '{"sub": "a", "exp": NaN}',
        '{"sub": "a", "exp": Infinity}',
        '{"sub": "a", "exp": 1e999}',
        '{"sub": "a", "exp": -1e999}',
        '{"sub": "a", "exp": 1' + "0" * 400 + "}",
        '{"sub": "a", "exp": 1' + "0" * 5000 + "}",
        '{"sub": "a", "exp": [1900000000]}',
        '{"sub": "a", "exp": 1900000000, "nbf": "soon"}',
        '{"sub": "a", "exp": 1900000000, "iat": true}',
        '{"sub": "a", "sub": "b", "exp": 1900000000}',
        '{"sub": "a", "exp": 1, "exp": 1900000000}',
        '[{"sub": "a", "exp": 1900000000}]',
        '"text"',
        "null",
        "",
        "{",
        "[" * 3000,
        b'{"sub": "\xff", "exp": 1900000000}',
    ],
)
def test_payloads_that_are_not_one_plain_object_are_refused(payload: str | bytes) -> None:
    with pytest.raises(InvalidUserToken):
        ring().verify(raw(HEADER, payload), NOW)


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none","kid":"k"}',
        '{"alg":"None"}',
        '{"alg":"hs256","kid":"k"}',
        '{"alg":["HS256"],"kid":"k"}',
        '{"alg":null}',
        "{}",
        '{"alg":"HS256","kid":7}',
        '{"alg":"HS256","kid":["k"]}',
        '{"alg":"HS256","alg":"HS256","kid":"k"}',
        '{"alg":"HS256","kid":"k","crit":["x"],"x":1}',
        '{"alg":"HS256","kid":"k","b64":false,"crit":["b64"]}',
        '{"alg":"HS256","kid":"k","b64":"true"}',
        '{"alg":"HS256","kid":"k","crit":["b64"]}',
        '{"alg":"HS256","kid":"k","b64":true,"crit":["b64","x"],"x":1}',
        '{"alg":"HS256","kid":"k","b64":true,"crit":[["b64"]]}',
        "[]",
        "not json",
        "[" * 3000,
    ],
)
def test_headers_that_are_not_right_are_refused(header: str) -> None:
    with pytest.raises(InvalidUserToken):
        ring().verify(raw(header, json.dumps({"sub": "a", "exp": NOW + 9})), NOW)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        f"{HEAD}.{BODY}",
        f"{HEAD}.{BODY}.",
        f"{HEAD}..{SIGNATURE}",
        f"{GOOD}.{GOOD}",
        f"{GOOD}=",
        f"{HEAD}.{BODY}=.{SIGNATURE}",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{HEAD}.{BODY[:8]} {BODY[8:]}.{SIGNATURE}",
        f"{HEAD}.{BODY}.{SIGNATURE[:-4]}",
        f"{HEAD}.{BODY}.{SIGNATURE[:-1]}{'B' if SIGNATURE[-1] != 'B' else 'C'}",
        f"{HEAD}.{BODY}.{SIGNATURE[::-1]}",
        f"{HEAD}.{BODY}.{SIGNATURE}é",
        "a" * 12_289,
        GOOD.replace("-", "+").replace("_", "/") + "/",
    ],
)
def test_tokens_that_are_not_well_formed_are_refused(token: str) -> None:
    with pytest.raises(InvalidUserToken):
        ring().verify(token, NOW)


def test_a_token_is_good_until_its_fractional_expiry_and_the_leeway() -> None:
    token = sign(exp=NOW + 0.5)
    assert ring().verify(token, NOW + 0.4).user == "alice"
    with pytest.raises(ExpiredUserToken):
        ring().verify(token, NOW + 0.5)
    assert ring(leeway_s=10).verify(token, NOW + 10.4).user == "alice"
    with pytest.raises(ExpiredUserToken):
        ring(leeway_s=10).verify(token, NOW + 10.5)


def test_a_negative_expiry_is_a_number_and_long_over() -> None:
    with pytest.raises(ExpiredUserToken):
        ring().verify(sign(exp=-5), NOW)


def test_an_expired_forgery_is_a_forgery() -> None:
    with pytest.raises(InvalidUserToken):
        ring(issuer="us").verify(sign(exp=NOW - 9), NOW)


@pytest.mark.parametrize(("leeway_s", "ahead_s"), [(0, 5), (4, 5), (5, 5), (60, 60)])
def test_nbf_and_iat_may_be_as_far_ahead_as_the_leeway_and_at_least_five_seconds(leeway_s: float, ahead_s: int) -> None:
    own = ring(leeway_s=leeway_s)
    assert own.verify(sign(nbf=NOW + ahead_s, iat=NOW + ahead_s, exp=NOW + 99), NOW).user == "alice"
    for claim in ("nbf", "iat"):
        with pytest.raises(InvalidUserToken):
            own.verify(sign("HS256", None, **{claim: NOW + ahead_s + 1}, exp=NOW + 99), NOW)


def test_the_least_leeway_is_none_for_exp() -> None:
    with pytest.raises(ExpiredUserToken):
        ring().verify(sign(exp=NOW - 0.1), NOW)


@pytest.mark.parametrize(
    ("rules", "claims", "user"),
    [
        ({}, {"sub": "x" * 512}, "x" * 512),
        ({}, {"sub": "🙂" * 512}, "🙂" * 512),
        ({}, {"sub": 7}, None),
        ({"integer_sub": True}, {"sub": 7}, "7"),
        ({"integer_sub": True}, {"sub": -(10**40)}, f"-1{'0' * 40}"),
        ({"integer_sub": True}, {"sub": "alice"}, "alice"),
        ({"integer_sub": True}, {"sub": 7.0}, None),
        ({"integer_sub": True}, {"sub": True}, None),
        ({"integer_sub": True}, {"sub": 10**512}, None),
        ({"subject_claim": "user_id"}, {"sub": "alice", "user_id": "bob"}, "bob"),
        ({"subject_claim": "user_id"}, {"sub": ..., "user_id": "bob"}, "bob"),
        ({"subject_claim": "user_id"}, {"sub": "alice"}, None),
        ({"subject_claim": "user_id", "integer_sub": True}, {"sub": "alice", "user_id": 7}, "7"),
        ({}, {"tenant": None}, "alice"),
        ({}, {"tenant": "acme"}, "alice"),
        ({}, {"tenant": ""}, None),
        ({}, {"tenant": False}, None),
        ({"tenant_claim": None}, {"tenant": "globex"}, "alice"),
        ({"tenant_claim": "org"}, {"tenant": "globex", "org": "acme"}, "alice"),
        ({"tenant_claim": "org"}, {"tenant": "acme", "org": "globex"}, None),
        ({"tenant_claim": "org"}, {"tenant": "globex"}, "alice"),
        ({}, {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, None),
        ({}, {"cnf": {}}, None),
        ({}, {"cnf": "x"}, None),
        ({}, {"cnf": None}, "alice"),
        ({"accept_bound_tokens": True}, {"cnf": {"x5t#S256": "x"}}, "alice"),
    ],
)
def test_the_settings_say_which_claim_names_the_user_and_the_tenant_and_whether_a_bound_token_is_accepted(
    rules: dict[str, Any], claims: dict[str, Any], user: str | None
) -> None:
    if user is None:
        with pytest.raises(InvalidUserToken):
            ring(**rules).verify(sign(**claims), NOW)
    else:
        assert ring(**rules).verify(sign(**claims), NOW).user == user


def test_a_token_of_two_hundred_groups_is_read() -> None:
    token = sign(groups=[f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(200)])
    assert 10_000 < len(token) <= 12 * 1024
    assert ring().verify(token, NOW).user == "alice"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"sub": ...}, "sub is missing; jwt.subject_claim names the claim that holds the user"),
        ({"sub": 7}, "sub is a number, which jwt.integer_sub accepts"),
        ({"sub": ["alice"]}, "sub is not a string"),
        ({"sub": ""}, "sub is empty"),
        ({"sub": "x" * 513}, "sub has more than 512 characters"),
        ({"sub": "a\nb"}, "sub holds a control character"),
        ({"exp": ...}, "exp is missing"),
        ({"exp": "soon"}, "exp is not a number"),
        ({"exp": NOW * 1000}, "exp is not before the year 10000; it is in seconds"),
        ({"iat": NOW + 90}, "not valid yet: iat is 90 s ahead of this clock"),
        ({"nbf": NOW + 3600}, "not valid yet: nbf is 3600 s ahead of this clock"),
        ({"tenant": "globex"}, "the claim tenant does not name this tenant"),
        ({"iss": "them"}, "iss is not jwt.issuer"),
        ({"aud": "them"}, "aud holds nothing of jwt.audience"),
        ({"cnf": {}}, "bound to a key (cnf), whose proof is not checked: jwt.accept_bound_tokens is false"),
    ],
)
def test_the_log_says_which_claim_is_wrong_and_how(claims: dict[str, Any], reason: str) -> None:
    good: dict[str, Any] = {"iss": "us", "aud": "api"}
    with pytest.raises(InvalidUserToken) as refused:
        ring(issuer="us", audience=["api"]).verify(sign(**good | claims), NOW)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("rules", "claims", "good"),
    [
        ({"issuer": "us"}, {"iss": "us"}, True),
        ({"issuer": "us"}, {"iss": "them"}, False),
        ({"issuer": "us"}, {}, False),
        ({}, {"iss": "anyone", "aud": "anything"}, True),
        ({"audience": ["api"]}, {"aud": "api"}, True),
        ({"audience": ["api", "web"]}, {"aud": ["x", "web"]}, True),
        ({"audience": ["api"]}, {"aud": ["x"]}, False),
        ({"audience": ["api"]}, {"aud": {"api": 1}}, False),
        ({"audience": ["api"]}, {}, False),
        ({}, {"tenant": "acme"}, True),
    ],
)
def test_issuer_and_audience_are_checked_where_configured(
    rules: dict[str, Any], claims: dict[str, Any], good: bool
) -> None:
    if good:
        assert ring(**rules).verify(sign(**claims), NOW).user == "alice"
    else:
        with pytest.raises(InvalidUserToken):
            ring(**rules).verify(sign(**claims), NOW)


@pytest.mark.parametrize(
    ("alg", "material", "reported"),
    [
        ("HS256", "s" * 31, "at least 32 bytes"),
        ("none", "s" * 32, "algorithm must be one of"),
        ("RS256", "no pem", "not a key for RS256"),
        ("RS256", pem(EC256), "not a key for RS256"),
        ("ES256", pem(EC384), "ES256"),
        ("ES384", pem(EC256), "ES384"),
        ("EdDSA", pem(RSA), "not a key for EdDSA"),
        (
            "RS256",
            RSA.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            "private key",
        ),
        ("RS256", pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "at least 2048 bits"),
    ],
)
def test_a_key_that_does_not_fit_or_is_weak_is_refused(alg: str, material: str, reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        make_key("k", alg, material)


def test_ed448_is_an_eddsa_key_too() -> None:
    private = ed448.Ed448PrivateKey.generate()
    token = jwt.encode({"sub": "alice", "exp": NOW + 9}, private, algorithm="EdDSA")
    assert ring(make_key(None, "EdDSA", pem(private))).verify(token, NOW).user == "alice"


def test_keys_and_rings_never_show_their_material() -> None:
    assert SECRET not in repr(key("HS256"))


def test_a_configured_key_wins_over_a_remote_one_of_its_kid() -> None:
    own = ring()
    own.replace_remote([make_key("k", "HS256", "o" * 32)])
    assert own.verify(sign(), NOW).user == "alice"


@pytest.mark.parametrize("user", ["a", "x" * 512, "ünï", "a b", "🙂", "{t}:*", "a/b?c=d"])
def test_a_user_is_any_text_without_control_characters(user: str) -> None:
    assert is_user_id(user)
