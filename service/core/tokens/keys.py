"""Verification keys. Each is prepared once, for one algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
ALGORITHMS = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"),
)
ASYMMETRIC = tuple(alg for alg in ALGORITHMS if not alg.startswith("HS"))
"""The algorithms that a JWKS URL may bring: the service never takes a secret from a URL."""
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1"}
_VERIFIERS = {alg: jwt.get_algorithm_by_name(alg) for alg in ALGORITHMS}


@dataclass(frozen=True, slots=True)
class Key:
    """A verification key with the one algorithm it is for."""

    kid: str | None
    alg: str
    material: Any
    """The key object that PyJWT prepared; never shown."""

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, alg={self.alg!r})"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's signature of `message`."""
        return _VERIFIERS[self.alg].verify(message, self.material, signature)


def make_key(kid: str | None, alg: str, material: str | bytes | Mapping[str, Any]) -> Key:
    """Prepare a key from a secret, a PEM public key, or a JWK.

    Raises:
        ValueError: the material does not fit the algorithm, or is too weak for it. Never quotes it.
    """
    if alg not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}")
    try:
        if isinstance(material, Mapping):
            prepared = jwt.PyJWK(dict(material), algorithm=alg).key
        else:
            prepared = _VERIFIERS[alg].prepare_key(material)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is not a key for {alg}") from error
    if alg.startswith("HS") and len(prepared) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret for {alg} must have at least {MIN_SECRET_BYTES} bytes")
    if hasattr(prepared, "private_bytes"):
        raise ValueError("this is a private key; the service verifies, so give it the public key")
    if alg[:2] in ("RS", "PS") and prepared.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key must have at least {MIN_RSA_BITS} bits")
    if alg in _CURVES and prepared.curve.name != _CURVES[alg]:
        raise ValueError(f"{alg} needs a key on the curve {_CURVES[alg]}")
    return Key(kid, alg, prepared)
