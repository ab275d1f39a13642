"""Tokens that no server has seen, made beforehand; and what `cryptography` alone spends on verifying one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from bench.servers import SECRET, asking

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
VERIFICATIONS = 1000
"""How many are timed in each round."""


@dataclass
class Signer:
    """A key pair (or a secret): what the service is configured with, and how a token is signed and verified."""

    alg: str
    private: Any
    configured: dict[str, str]
    """The key as the configuration has it."""
    verify: Callable[[bytes, bytes], None]
    """`cryptography`'s verification of a signature of a message, with the key ready."""
    signature: bytes
    """Of `MESSAGE`, as `verify` takes it."""


MESSAGE = jwt.encode({"sub": "user", "exp": 2_000_000_000, "jti": "0" * 12}, SECRET).rpartition(".")[0].encode()
"""As long as what is signed of a token of the bench."""


def signer(alg: str) -> Signer:
    """A new key for this algorithm."""
    if alg == "HS256":

        def verify(signature: bytes, message: bytes) -> None:
            mac = hmac.HMAC(SECRET.encode(), hashes.SHA256())
            mac.update(message)
            mac.verify(signature)

        made = hmac.HMAC(SECRET.encode(), hashes.SHA256())
        made.update(MESSAGE)
        return Signer(alg, SECRET, {"kid": alg, "alg": alg, "secret": SECRET}, verify, made.finalize())
    private: Any
    if alg == "RS256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        how: tuple[Any, ...] = (padding.PKCS1v15(), hashes.SHA256())
    elif alg == "ES256":
        private, how = ec.generate_private_key(ec.SECP256R1()), (ec.ECDSA(hashes.SHA256()),)
    else:
        private, how = ed25519.Ed25519PrivateKey.generate(), ()
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    return Signer(
        alg,
        private,
        {"kid": alg, "alg": alg, "public_key": pem},
        lambda signature, message: public.verify(signature, message, *how),
        private.sign(MESSAGE, *how),
    )


def verification_us(signer: Signer) -> float:
    """CPU microseconds of one verification by `cryptography`, Python's call included."""
    verify, signature = signer.verify, signer.signature
    began = time.thread_time()
    for _ in range(VERIFICATIONS):
        verify(signature, MESSAGE)
    return (time.thread_time() - began) / VERIFICATIONS * 1e6


class Fresh:
    """Requests that each bring another token of the same user."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._raws: list[bytes] = []

    def prepare(self, count: int) -> None:
        """Sign so many tokens: signing is slower than what is measured, and must not share its time."""
        expires = int(time.time()) + 86_400
        for number in range(len(self._raws), count):
            claims = {"sub": "user", "exp": expires, "jti": f"{number:012}"}
            headers = {"kid": self._signer.alg}
            token = jwt.encode(claims, self._signer.private, algorithm=self._signer.alg, headers=headers)
            self._raws.append(asking("/auth/status", x_token=token))

    def __call__(self, number: int) -> bytes:
        return self._raws[number]
