"""Keys of every kind, and tokens that are signed with them."""

import base64
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.core.tokens.claims import ClaimRules
from service.core.tokens.keys import Key, make_key
from service.core.tokens.verification import KeyRing

NOW = 1_800_000_000.0
SECRET = "s" * 32
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC256 = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(private: Any) -> str:
    public = private.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(public.public_bytes(serialization.Encoding.PEM, form).decode())


def private_of(alg: str) -> Any:
    return {"HS": SECRET, "RS": RSA, "PS": RSA, "Ed": ED}.get(alg[:2]) or {"ES256": EC256, "ES384": EC384}[alg]


def key(alg: str, kid: str | None = "k") -> Key:
    private = private_of(alg)
    return make_key(kid, alg, SECRET if alg.startswith("HS") else pem(private))


def ring(*keys: Key, **rules: Any) -> KeyRing:
    return KeyRing("acme", keys or [key("HS256")], ClaimRules("acme", **rules))


def sign(alg: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    content = {"sub": "alice", "exp": NOW + 60, **claims}
    content = {name: value for name, value in content.items() if value is not ...}
    return jwt.encode(content, private_of(alg), algorithm=alg, headers={"kid": "k"} if headers is None else headers)


def raw(header: str | bytes, payload: str | bytes, *, secret: str = SECRET) -> str:
    """A token of these very bytes, signed with HS256."""
    parts = [part.encode() if isinstance(part, str) else part for part in (header, payload)]
    signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.get_algorithm_by_name("HS256").sign(signing_input, secret.encode())
    return (signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


GOOD = sign()
HEAD, BODY, SIGNATURE = GOOD.split(".")
