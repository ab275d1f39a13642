"""How tokens are made up: parts of any content, signatures of any kind, keys of whoever one likes."""

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.kit import SECRET, TENANT_TOKEN

Signer = Callable[[bytes], bytes]
RSA, STRANGERS_RSA = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
EC_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
LATER, LONG_AGO, YEAR_10000_S = 4_000_000_000, 1_000_000_000, 253_402_300_800
"""Fixed times: the names of the tests have them, and every worker collects the same names."""


def public(private: Any, encoding: Encoding = Encoding.PEM) -> bytes:
    key: bytes = private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return key


def part(content: Any) -> str:
    """A part of a token: base64url of bytes, of text, or of JSON."""
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    raw = content.encode() if isinstance(content, str) else content
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hs(secret: str | bytes = SECRET, algorithm: str = "sha256") -> Signer:
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda content: hmac.digest(key, content, algorithm)


def rs(key: rsa.RSAPrivateKey = RSA, algorithm: hashes.HashAlgorithm | None = None) -> Signer:
    return lambda content: key.sign(content, padding.PKCS1v15(), algorithm or hashes.SHA256())


def pss(content: bytes) -> bytes:
    return RSA.sign(content, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def der(content: bytes) -> bytes:
    return EC.sign(content, ec.ECDSA(hashes.SHA256()))


def es(content: bytes) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der(content)))


def fixed(signature: bytes) -> Signer:
    return lambda _: signature


def header(alg: Any = "HS256", kid: Any = "k1", **members: Any) -> dict[str, Any]:
    """A header; a member that is ... is left out."""
    made = {"alg": alg, "kid": kid, "typ": "JWT", **members}
    return {name: value for name, value in made.items() if value is not ...}


def claims(**changes: Any) -> dict[str, Any]:
    """What mallory would like to be taken for; a claim that is ... is left out."""
    made = {"sub": "mallory", "exp": LATER, **changes}
    return {name: value for name, value in made.items() if value is not ...}


def forge(head: Any = None, body: Any = None, signer: Signer | None = None) -> str:
    """A token of these very parts; what is not said is as it should be."""
    return sealed(f"{part(header() if head is None else head)}.{part(claims() if body is None else body)}", signer)


def sealed(signed: str, signer: Signer | None = None) -> str:
    """Header and claims as they are written, and their signature."""
    return f"{signed}.{part((signer or hs())(signed.encode()))}"


def bearer(value: str) -> list[tuple[str, str]]:
    """The fields of a request with this in `authorization`."""
    return [("x-tenant-token", TENANT_TOKEN), ("authorization", value)]


def claiming(**changes: Any) -> str:
    """A token that is signed as it should be, and claims this."""
    return forge(body=claims(**changes))


def payload(text: str | bytes) -> str:
    """A token that is signed as it should be, of these very claims."""
    return forge(body=text)


def twisted(text: str) -> str:
    """Other base64 of the same bytes: the bits that its last character has too many are set (RFC 4648, 3.5)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4, "there are no bits too many"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
