"""Signatures are judged as PyJWT judges them, for every algorithm."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.core.tokens.keys import ALGORITHMS
from service.core.tokens.signatures import verifier_of

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = b"a secret of enough bytes for each of the hashes, which are at most 64 long"
PRIVATE: dict[str, Any] = {
    **{f"HS{size}": SECRET for size in (256, 384, 512)},
    **{f"{family}{size}": RSA_KEY for family in ("RS", "PS") for size in (256, 384, 512)},
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
MESSAGE = b"header.payload"


def public(alg: str) -> Any:
    key = PRIVATE[alg]
    return key if isinstance(key, bytes) else key.public_key()


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_each_algorithm_takes_its_own_signature_and_nothing_near_it(alg: str) -> None:
    theirs = jwt.get_algorithm_by_name(alg)
    good = theirs.sign(MESSAGE, PRIVATE[alg])
    verifies = verifier_of(alg, public(alg))
    assert verifies(MESSAGE, good)
    half = len(good) // 2
    bad = [
        *(b"", b"\0", good[:-1], good + b"\0", b"\0" + good, good[half:] + good[:half], good[:half], good * 2),
        *(bytes(len(good)), b"\xff" * len(good), bytes(half) + good[half:], good[:half] + bytes(half)),
        *(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), max(1, half // 4))),
    ]
    for signature in bad:
        assert verifies(MESSAGE, signature) is False
        assert theirs.verify(MESSAGE, public(alg), signature) is False
    for message in (b"", MESSAGE[:-1], MESSAGE + b"\0"):
        assert verifies(message, good) is False


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_no_algorithm_takes_the_signature_of_another(alg: str) -> None:
    verifies = verifier_of(alg, public(alg))
    for other in ALGORITHMS:
        if other != alg:
            assert not verifies(MESSAGE, jwt.get_algorithm_by_name(other).sign(MESSAGE, PRIVATE[other])), other


@pytest.mark.parametrize("alg", ["ES256", "ES384"])
def test_a_signature_in_der_is_none_of_jws(alg: str) -> None:
    key = PRIVATE[alg]
    hashed = jwt.get_algorithm_by_name(alg)
    in_der = key.sign(MESSAGE, ec.ECDSA(hashed.hash_alg()))  # type: ignore[attr-defined]
    assert not verifier_of(alg, public(alg))(MESSAGE, in_der)
