"""Keys of the configuration: every way to give one, and what is doubtful about it."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from service.config.cross_checks import doubts
from service.core.errors import InvalidUserToken
from service.core.tokens.verification import Verifier
from service.demo_tokens import sign as demo_token
from service.policy_factory import make_policy
from tests.kit import TENANT_TOKEN, settings

NOW = 1_800_000_000.0
BYTES = bytes(range(200, 240)) + b"\n"
"""A secret that is no text, and ends with a newline."""
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256, ED25519 = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def certificate(private: Any) -> str:
    """A certificate of this key that is long over, which does not matter: the key is what is configured."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    began = datetime(2020, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, private.public_key(), 7, began, began + timedelta(days=1))
    algorithm = None if private is ED25519 else hashes.SHA256()
    return made.sign(private, algorithm).public_bytes(Encoding.PEM).decode()


def tenants(key: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {"acme": {"token": TENANT_TOKEN, "jwt": {"keys": [key], **rules}}}


def ring(key: dict[str, Any], **rules: Any) -> Verifier:
    return make_policy(settings(tenants=tenants(key, **rules))).directory.tenants["acme"].ring


def sign(private: Any, alg: str, **headers: str) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60}, private, algorithm=alg, headers=headers)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("form", ["{}", "{}\n", " {} "])
@pytest.mark.parametrize("padded", [True, False])
def test_a_secret_of_any_bytes_is_given_in_base64(encode: Any, form: str, padded: bool, tmp_path: Path) -> None:
    text = encode(BYTES).decode()
    text = form.format(text if padded else text.rstrip("="))
    path = tmp_path / "secret"
    path.write_text(text)
    for key in ({"secret_base64": text}, {"secret_base64_file": str(path)}):
        assert ring({"alg": "HS256", **key}).verify(sign(BYTES, "HS256"), NOW).user == "alice"


def test_every_byte_of_a_secret_in_a_file_is_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s" * 32 + "\n")
    own = ring({"alg": "HS256", "secret_file": str(path)})
    assert own.verify(sign("s" * 32 + "\n", "HS256"), NOW).user == "alice"
    with pytest.raises(InvalidUserToken):
        own.verify(sign("s" * 32, "HS256"), NOW)


@pytest.mark.parametrize(
    ("private", "alg"), [(RSA, "RS256"), (RSA, "PS384"), (P256, "ES256"), (ED25519, "EdDSA"), (ED25519, "Ed25519")]
)
def test_a_certificate_is_given_in_place_of_its_public_key(private: Any, alg: str, tmp_path: Path) -> None:
    text = certificate(private)
    path = tmp_path / "issuer.pem"
    path.write_text(text + certificate(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    signed = "EdDSA" if alg == "Ed25519" else alg
    for key in ({"public_key": text}, {"public_key_file": str(path)}):
        assert ring({"alg": alg, **key}).verify(sign(private, signed), NOW).user == "alice"


@pytest.mark.parametrize(("private", "alg"), [(RSA, "RS256"), (RSA, "PS512"), (P256, "ES256"), (ED25519, "EdDSA")])
def test_a_key_without_alg_is_for_what_its_kind_allows(private: Any, alg: str) -> None:
    for text in (pem(private), certificate(private)):
        assert ring({"public_key": text}).verify(sign(private, alg), NOW).user == "alice"


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_secret_without_alg_is_for_every_hash(alg: str) -> None:
    assert ring({"secret": "s" * 64}).verify(sign("s" * 64, alg), NOW).user == "alice"


def test_algorithms_that_are_not_listed_are_not_accepted_and_the_log_says_so() -> None:
    own = ring({"public_key": pem(RSA)}, algorithms=["RS256"])
    assert own.verify(sign(RSA, "RS256"), NOW).user == "alice"
    for alg, why in (("PS256", "jwt.algorithms lists"), ("HS256", "jwt.algorithms lists"), ("none", "are supported")):
        private: Any = {"PS256": RSA, "HS256": "s" * 32}.get(alg)
        token = jwt.encode({"sub": "a"}, private, algorithm=alg)
        with pytest.raises(InvalidUserToken) as refused:
            own.verify(token, NOW)
        assert refused.value.reason == f"its alg is none of those that {why}"


def test_either_name_of_ed25519_lists_both() -> None:
    for listed in (["Ed25519"], ["EdDSA"]):
        assert ring({"public_key": pem(ED25519)}, algorithms=listed).verify(sign(ED25519, "EdDSA"), NOW).user == "alice"


@pytest.mark.parametrize(
    ("key", "rules", "doubt"),
    [
        ({"secret": "s" * 64}, {}, "jwt.keys.0 names no alg, so HS256, HS384, HS512 are accepted: write the one"),
        ({"public_key": pem(RSA)}, {}, "jwt.keys.0 names no alg, so RS256, RS384, RS512, PS256, PS384, PS512 are"),
        ({"public_key": pem(P256)}, {}, ""),
        ({"public_key": pem(RSA)}, {"algorithms": ["RS256", "PS256"]}, ""),
        ({"alg": "HS512", "secret": "s" * 32}, {}, "a secret for HS512 should have 64 bytes; this has 32"),
        ({"alg": "HS256", "secret": "s" * 32}, {}, ""),
        ({"secret": "s" * 63}, {"algorithms": ["HS512"]}, "a secret for HS512 should have 64 bytes; this has 63"),
        ({"secret": "s" * 32}, {"algorithms": ["HS384", "HS256"]}, "a secret for HS384 should have 48 bytes"),
        ({"secret": "s" * 64}, {"algorithms": ["HS256", "HS384", "HS512"]}, ""),
        ({"alg": "HS256", "secret": "s" * 32}, {"jwks_alg": "ES256"}, "is deprecated: write algorithms: [ES256]"),
    ],
)
def test_what_is_doubtful_about_a_key_is_said_with_the_line_to_write(
    key: dict[str, Any], rules: dict[str, Any], doubt: str
) -> None:
    reported = [one for one in doubts(settings(tenants=tenants(key, **rules))) if one.startswith("tenants.acme.jwt")]
    assert (doubt in reported[0]) if doubt else not reported


@pytest.mark.parametrize("key", [{"secret": "s" * 32}, {"alg": "HS384", "secret_base64": "A" * 64}])
def test_a_demo_token_is_signed_with_any_secret(key: dict[str, Any]) -> None:
    rules = {"subject_claim": "user_id", "tenant_claim": "org"}
    made = settings(tenants=tenants(key, **rules))
    token = demo_token(made, "acme", "bob", 60)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["user_id"], claims["org"]) == ("bob", "acme")
    assert make_policy(made).directory.tenants["acme"].ring.verify(token, claims["iat"]).user == "bob"
