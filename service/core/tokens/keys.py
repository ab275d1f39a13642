"""Verification keys. Each is prepared once, for one algorithm."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from service.core.tokens.signatures import Verify, verifier_of

MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
SYMMETRIC = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*SYMMETRIC, *RSA_ALGORITHMS, "ES256", "ES384", "EdDSA")
ASYMMETRIC = ALGORITHMS[len(SYMMETRIC) :]
"""The algorithms that a JWKS URL may bring: the service never takes a secret from a URL."""
SYNONYMS = {"Ed25519": "EdDSA"}
"""RFC 9864 gives EdDSA with an Ed25519 key a name of its own; issuers write either."""
NAMES = (*ALGORITHMS, *SYNONYMS)
"""Every name of an algorithm that a configuration, a key set and a token may use."""
HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""What RFC 7518, section 3.2 asks of a secret."""
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1"}
_VERIFIERS = {alg: jwt.get_algorithm_by_name(alg) for alg in ALGORITHMS}
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Key:
    """A verification key with the one algorithm it is for."""

    kid: str | None
    alg: str
    material: Any
    """The key object that PyJWT prepared; never shown."""
    _verify: Verify = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_verify", verifier_of(self.alg, self.material))

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, alg={self.alg!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """What a token's `alg` may be for this key."""
        return ("EdDSA", "Ed25519") if isinstance(self.material, Ed25519PublicKey) else (self.alg,)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's signature of `message`."""
        return self._verify(message, signature)

    def thumbprint(self) -> str:
        """Return the SHA-256 thumbprint of a public key (RFC 7638), for the log; empty for a secret."""
        if self.alg in SYMMETRIC:
            return ""
        members = _VERIFIERS[self.alg].to_jwk(self.material, as_dict=True)
        required = {name: members[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in members}
        text = json.dumps(required, sort_keys=True, separators=(",", ":"))
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def make_key(kid: str | None, alg: str, material: str | bytes | Mapping[str, Any]) -> Key:
    """Prepare a key from a secret, a public key in PEM, a certificate in PEM, or a JWK.

    Raises:
        ValueError: the material does not fit the algorithm, or is too weak for it. Never quotes it.
    """
    alg, named = SYNONYMS.get(alg, alg), alg
    if alg not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(NAMES)}")
    try:
        if isinstance(material, Mapping):
            prepared = jwt.PyJWK(dict(material), algorithm=alg).key
        elif alg not in SYMMETRIC and isinstance(material, str) and _CERTIFICATE in material:
            prepared = _VERIFIERS[alg].prepare_key(load_pem_x509_certificate(material.encode()).public_key())
        else:
            prepared = _VERIFIERS[alg].prepare_key(material)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is not a key for {named}") from error
    if alg in SYMMETRIC and len(prepared) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret for {alg} must have at least {MIN_SECRET_BYTES} bytes")
    if hasattr(prepared, "private_bytes"):
        raise ValueError("this is a private key; the service verifies, so give it the public key")
    if alg in RSA_ALGORITHMS and prepared.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key must have at least {MIN_RSA_BITS} bits")
    if alg in CURVES and prepared.curve.name != CURVES[alg]:
        raise ValueError(f"{alg} needs a key on the curve {CURVES[alg]}")
    if named == "Ed25519" and not isinstance(prepared, Ed25519PublicKey):
        raise ValueError("this is not a key for Ed25519")
    return Key(kid, alg, prepared)


def algorithms_of(pem: str) -> tuple[str, ...]:
    """Return the algorithms that a public key or a certificate in PEM can be for; none where it is neither."""
    try:
        key = (
            load_pem_x509_certificate(pem.encode()).public_key()
            if _CERTIFICATE in pem
            else load_pem_public_key(pem.encode())
        )
    except ValueError:
        return ()
    if isinstance(key, RSAPublicKey):
        return RSA_ALGORITHMS
    if isinstance(key, EllipticCurvePublicKey):
        return tuple(alg for alg, curve in CURVES.items() if key.curve.name == curve)
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey | Ed448PublicKey) else ()


def canonical(algorithms: Sequence[str]) -> tuple[str, ...]:
    """Return the algorithms under the names that keys have, each once."""
    return tuple(dict.fromkeys(SYNONYMS.get(alg, alg) for alg in algorithms))
