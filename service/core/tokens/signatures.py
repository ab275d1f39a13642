"""Verification of signatures: a function for each key, made once with all that it needs.

PyJWT prepares the keys, and cryptography verifies. PyJWT's own verification makes the padding and the hash anew for
each token, and for HMAC it hashes the secret each time: that takes 1 to 2 µs.
"""

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

Verify = Callable[[bytes, bytes], bool]
"""Returns whether the second is a signature of the first, the message."""

_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_NUMBER_BYTES = {"ES256": 32, "ES384": 48}
"""The length of each of the two numbers of a signature (RFC 7518, section 3.4)."""


def verifier_of(alg: str, key: Any) -> Verify:
    """Return the verification with `key`, as PyJWT prepares it for `alg` (RFC 7518, section 3.1, and RFC 8037)."""
    family, digest = alg[:2], _HASHES.get(alg[2:])
    if digest is None:  # EdDSA: the key's curve says all
        return _verifier(key.verify)
    if family == "HS":
        return _verifier_of_secret(hmac.HMAC(key, digest))
    if family == "RS":
        return _verifier(key.verify, padding.PKCS1v15(), digest)
    if family == "PS":
        return _verifier(key.verify, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return _verifier_of_numbers(_verifier(key.verify, ec.ECDSA(digest)), _NUMBER_BYTES[alg])


def _verifier(verify: Callable[..., None], *how: object) -> Verify:
    def verifies(message: bytes, signature: bytes) -> bool:
        try:
            verify(signature, message, *how)
        except InvalidSignature:
            return False
        return True

    return verifies


def _verifier_of_secret(ready: hmac.HMAC) -> Verify:
    def verifies(message: bytes, signature: bytes) -> bool:
        code = ready.copy()  # a third of a new one, which hashes the secret
        code.update(message)
        try:
            code.verify(signature)
        except InvalidSignature:
            return False
        return True

    return verifies


def _verifier_of_numbers(verifies: Verify, length: int) -> Verify:
    """JWS has the two numbers of a signature one behind the other, cryptography takes them in DER."""

    def verifies_numbers(message: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * length:
            return False
        r, s = int.from_bytes(signature[:length], "big"), int.from_bytes(signature[length:], "big")
        return verifies(message, encode_dss_signature(r, s))

    return verifies_numbers
