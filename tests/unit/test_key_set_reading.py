"""What a JWK Set's keys are good for: the kinds, the algorithms, and what is skipped or is no key set at all."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.core.errors import InvalidUserToken
from service.core.tokens.key_sets import KeyRules, read_key_set
from service.core.tokens.keys import RSA_ALGORITHMS, make_key
from service.core.tokens.verification import KeyRing

NOW = 1_800_000_000.0
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
ALL = KeyRules()
PRIVATES: dict[str, Any] = {"RSA": RSA, "P256": P256, "P384": P384, "ED25519": ED25519}


def jwk(private: Any, **members: Any) -> dict[str, Any]:
    """A public key as libraries export it: without `kid` and `alg`, and here without `key_ops`."""
    kinds = jwt.algorithms.RSAAlgorithm, jwt.algorithms.ECAlgorithm, jwt.algorithms.OKPAlgorithm
    kind = kinds[0 if private is RSA else 1 if isinstance(private, ec.EllipticCurvePrivateKey) else 2]
    made: dict[str, Any] = kind.to_jwk(private.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **members}


def algorithms(member: Any, rules: KeyRules = ALL) -> list[str]:
    return [key.alg for key in read_key_set(key_set(member), rules).keys]


def key_set(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


def sign(private: Any, alg: str, kid: str | None = None, name: str | None = None) -> str:
    claims = {"sub": "alice", "exp": NOW + 60}
    headers = ({"kid": kid} if kid is not None else {}) | {"alg": name or alg}
    if name is None:
        return jwt.encode(claims, private, algorithm=alg, headers=headers)
    parts = [jwt.utils.base64url_encode(json.dumps(one).encode()) for one in (headers, claims)]
    signature = jwt.get_algorithm_by_name(alg).sign(b".".join(parts), private)
    return b".".join([*parts, jwt.utils.base64url_encode(signature)]).decode()


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def ring(*members: Any, rules: KeyRules = ALL) -> KeyRing:
    made = KeyRing("acme", [])
    made.replace_remote(read_key_set(key_set(*members), rules).keys)
    return made


@pytest.mark.parametrize(
    ("private", "possible"),
    [(RSA, list(RSA_ALGORITHMS)), (P256, ["ES256"]), (P384, ["ES384"]), (ED25519, ["EdDSA"]), (ED448, ["EdDSA"])],
)
@pytest.mark.parametrize("nothing", [{}, {"alg": None, "use": None, "key_ops": None, "kid": None}])
def test_a_key_without_alg_is_for_what_its_kind_allows(
    private: Any, possible: list[str], nothing: dict[str, Any]
) -> None:
    assert algorithms(jwk(private, **nothing)) == possible


@pytest.mark.parametrize(
    ("private", "alg", "short"),
    [
        (ec.derive_private_key(379, ec.SECP256R1()), "ES256", "x"),
        (ec.derive_private_key(43, ec.SECP256R1()), "ES256", "y"),
        (ec.derive_private_key(197, ec.SECP384R1()), "ES384", "x"),
        (ec.derive_private_key(176, ec.SECP384R1()), "ES384", "y"),
    ],
)
@pytest.mark.parametrize("zeros", [b"", b"\0\0"])
def test_a_coordinate_of_a_curve_may_lack_its_leading_zeros_or_have_more(
    private: Any, alg: str, short: str, zeros: bytes
) -> None:
    member = jwk(private)
    raw = jwt.utils.base64url_decode(member[short])
    assert raw.startswith(b"\0"), "the key is chosen so"
    member[short] = jwt.utils.base64url_encode(zeros + raw.lstrip(b"\0")).decode()
    assert ring(member).verify(sign(private, alg), NOW).user == "alice"


@pytest.mark.parametrize("x", ["", "AA", "A", "Ä", None, 7, ["x"], "x" * 9000])
def test_a_coordinate_that_is_none_spoils_no_other_key(x: object) -> None:
    assert [key.alg for key in read_key_set(key_set(jwk(P256, x=x), jwk(P384)), ALL).keys] == ["ES384"]


def test_the_settings_narrow_what_a_key_without_alg_is_for() -> None:
    assert algorithms(jwk(RSA), KeyRules(algorithms=("RS256", "ES256"))) == ["RS256"]
    assert algorithms(jwk(RSA), KeyRules(default="PS384")) == ["PS384"]
    assert algorithms(jwk(RSA, alg="RS512"), KeyRules(default="PS384")) == ["RS512"], "a key that names one has it"
    assert algorithms(jwk(RSA, alg="RS512"), KeyRules(algorithms=("RS256",))) == []


def test_rs256_and_ps256_work_beside_one_rsa_key() -> None:
    own = ring(jwk(RSA, kid="r"))
    for alg in RSA_ALGORITHMS:
        assert own.verify(sign(RSA, alg, "r"), NOW).user == "alice"
        assert own.verify(sign(RSA, alg), NOW).user == "alice"


@pytest.mark.parametrize("member", [{}, {"alg": "EdDSA"}, {"alg": "Ed25519"}])
@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_an_ed25519_key_and_its_tokens_have_either_name(member: dict[str, str], name: str) -> None:
    own = ring(jwk(ED25519, kid="e", **member))
    assert own.verify(sign(ED25519, "EdDSA", "e", name), NOW).user == "alice"


def test_the_name_ed25519_is_not_for_another_curve() -> None:
    assert algorithms(jwk(ED448, alg="Ed25519")) == []
    with pytest.raises(InvalidUserToken):
        ring(jwk(ED448)).verify(sign(ED448, "EdDSA", None, "Ed25519"), NOW)


@pytest.mark.parametrize("use", ["sig", "jwt-svid", None])
@pytest.mark.parametrize("ops", [["verify"], ["sign", "verify"], None])
def test_a_use_and_operations_that_hold_verifying_are_taken(use: str | None, ops: list[str] | None) -> None:
    assert algorithms(jwk(P256, use=use, key_ops=ops)) == ["ES256"]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (jwk(RSA, use="enc"), "its use is not sig"),
        (jwk(RSA, use=["sig"]), "its use is not sig"),
        (jwk(RSA, key_ops=["encrypt"]), "its key_ops do not hold verify"),
        (jwk(RSA, key_ops=[]), "its key_ops do not hold verify"),
        (jwk(RSA, key_ops="verify"), "its key_ops do not hold verify"),
        (jwk(RSA, kid=7), "its kid is not a string"),
        (jwk(RSA, alg="RSA-OAEP"), "its alg is not supported"),
        (jwk(RSA, alg="HS256"), "its alg is not supported"),
        (jwk(RSA, alg="ES256"), "this is not a key for ES256"),
        (jwk(P521), "of a kind or curve that is not supported"),
        ({"kty": "AKP", "alg": "ML-DSA-44"}, "of a kind or curve that is not supported"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "a secret, which is never taken from a URL"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "this is not a key for ES256"),
        ({"kty": ["RSA"]}, "of a kind or curve that is not supported"),
        ({"kty": "EC", "crv": ["P-256"]}, "of a kind or curve that is not supported"),
        ("text", "not an object"),
    ],
)
def test_a_key_that_is_not_used_is_listed_with_why(member: Any, why: str) -> None:
    found = read_key_set(key_set(member, jwk(P256, kid="good")), ALL)
    assert [key.kid for key in found.keys] == ["good"]
    assert [sentence.partition(": ")[2] for sentence in found.skipped] == [why]


def test_a_wrong_jwks_alg_is_said_of_the_keys_that_it_keeps_out() -> None:
    found = read_key_set(key_set(jwk(P256, kid="e")), KeyRules(default="RS256"))
    assert found.skipped == ("kid e: this is not a key for RS256, which jwt.jwks_alg says of it",)


def test_several_keys_without_kid_are_all_tried() -> None:
    own = ring(jwk(RSA), jwk(P256), jwk(ED25519))
    for private, alg in ((RSA, "PS512"), (P256, "ES256"), (ED25519, "EdDSA")):
        assert own.verify(sign(private, alg), NOW).user == "alice"
        with pytest.raises(InvalidUserToken):
            own.verify(sign(private, alg, "named"), NOW)


def test_keys_of_one_kid_differ_by_their_algorithm() -> None:
    own = ring(jwk(RSA, kid="k", alg="RS256"), jwk(P256, kid="k"), jwk(ED25519, kid="k"))
    for private, alg in ((RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")):
        assert own.verify(sign(private, alg, "k"), NOW).user == "alice"


def test_a_configured_key_replaces_only_the_remote_one_of_its_kid_and_algorithm() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own = KeyRing("acme", [make_key("k", "RS256", pem(other)), make_key(None, "RS256", pem(other))])
    own.replace_remote(read_key_set(key_set(jwk(RSA, kid="k"), jwk(RSA)), ALL).keys)
    assert own.verify(sign(other, "RS256", "k"), NOW).user == "alice"
    with pytest.raises(InvalidUserToken):
        own.verify(sign(RSA, "RS256", "k"), NOW)
    assert own.verify(sign(RSA, "PS256", "k"), NOW).user == "alice", "of this algorithm it is the only one"
    assert own.verify(sign(RSA, "RS256"), NOW).user == "alice", "without a kid none replaces another"


@pytest.mark.parametrize("allowed", [True, False])
def test_an_unknown_kid_falls_back_to_the_configured_key_without_kid_where_that_is_allowed(allowed: bool) -> None:
    own = KeyRing("acme", [make_key(None, "RS256", pem(RSA))], allow_unknown_kid=allowed)
    if allowed:
        assert own.verify(sign(RSA, "RS256", "foreign"), NOW).user == "alice"
    else:
        with pytest.raises(InvalidUserToken):
            own.verify(sign(RSA, "RS256", "foreign"), NOW)


def test_the_fallback_is_for_kids_that_are_not_held_and_for_configured_keys_alone() -> None:
    own = KeyRing("acme", [make_key(None, "RS256", pem(RSA))], allow_unknown_kid=True)
    own.replace_remote(read_key_set(key_set(jwk(P256, kid="held"), jwk(ED25519)), ALL).keys)
    for private, alg, kid in ((RSA, "RS256", "held"), (ED25519, "EdDSA", "foreign")):
        with pytest.raises(InvalidUserToken):
            own.verify(sign(private, alg, kid), NOW)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"issuer": "https://a.example", "jwks_uri": "https://a.example/j"}', "its jwks_uri, https://a.example/j"),
        (b'{"jwks_uri": 7}', "it is the metadata of an issuer; set jwt.jwks_url to its jwks_uri"),
        (json.dumps(jwk(RSA)).encode(), "it is a single key"),
        (json.dumps([jwk(RSA)]).encode(), "it is a list"),
        (b'{"1a": "-----BEGIN CERTIFICATE-----"}', "it is a map of certificates"),
        (b"-----BEGIN PUBLIC KEY-----\nMII", "it is PEM"),
        (b"<!doctype html><title>Not Found</title>", "it is a web page"),
        (b"<?xml version='1.0'?>", "it is a web page"),
        (b"hello", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"7", "it is not an object"),
        (b"{}", "it is an object without a list of keys"),
        (b'{"keys": {}}', "it is an object without a list of keys"),
    ],
)
def test_what_is_no_key_set_is_recognised_and_the_sentence_says_what_to_set(raw: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"^this is not a JWK Set: ") as refused:
        read_key_set(raw, ALL)
    assert words in str(refused.value)


def test_a_key_that_is_for_several_algorithms_is_listed() -> None:
    found = read_key_set(key_set(jwk(RSA, kid="r"), jwk(P256, kid="e")), ALL)
    assert found.undecided == ("kid r: RS256, RS384, RS512, PS256, PS384, PS512",)


def test_a_thumbprint_is_that_of_rfc_7638() -> None:
    member = {
        "kty": "RSA",
        "n": (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
            "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
            "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
            "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        ),
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    [key] = read_key_set(key_set(member), ALL).keys
    assert key.thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_every_kind_of_key_has_a_thumbprint_and_a_secret_has_none() -> None:
    keys = read_key_set(key_set(*map(jwk, PRIVATES.values())), ALL).keys
    assert all(len(key.thumbprint()) == 43 for key in keys)
    assert make_key(None, "HS256", "s" * 32).thumbprint() == ""
