"""JWK Sets (RFC 7517): which of their keys verify users' tokens, and why the others do not.

No library's export of a key carries `alg`, and issuers publish what is not for signatures in the same set. So a key
without `alg` is for everything that its kind allows, and what cannot be used spoils no other key.
"""

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from service.core.tokens.keys import ASYMMETRIC, RSA_ALGORITHMS, SYNONYMS, Key, make_key

MAX_SKIPPED = 100
"""How many skipped keys are listed."""
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
_BY_CURVE = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
_COORDINATE_BYTES = {"P-256": 32, "P-384": 48}
_USES = (None, "sig", "jwt-svid")
"""The last is SPIFFE's (SPIFFE Trust Domain and Bundle, section 4.2.2)."""


@dataclass(frozen=True, slots=True)
class KeyRules:
    """How the keys of a set are read."""

    algorithms: Collection[str] = ASYMMETRIC
    """Those that are accepted."""
    default: str | None = None
    """The one algorithm of keys that name none; None: all that their kind allows."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """What a JWK Set holds."""

    keys: tuple[Key, ...]
    """Those that verify: one for each algorithm where a key names none."""
    skipped: tuple[str, ...] = ()
    """A sentence for each key that is not used."""
    undecided: tuple[str, ...] = ()
    """A sentence for each key that is for several algorithms."""


class _Skipped(Exception):
    """The key cannot be used; says why."""


def read_key_set(raw: bytes, rules: KeyRules) -> KeySet:
    """Read the keys of a JWK Set that can verify, perhaps none; skip the others, as RFC 7517, section 5 asks.

    Symmetric keys are never taken from a URL.

    Raises:
        ValueError: this is not a JWK Set; says what it looks like, and what to set.
    """
    keys: list[Key] = []
    skipped, undecided = [], []
    for number, member in enumerate(_members(raw)):
        name = _name_of(number, member)
        try:
            made = _keys_of(member, rules)
        except _Skipped as why:
            skipped.append(f"{name}: {why}")
            continue
        keys += made
        if len(made) > 1:
            undecided.append(f"{name}: {', '.join(key.alg for key in made)}")
    return KeySet(tuple(keys), tuple(skipped[:MAX_SKIPPED]), tuple(undecided[:MAX_SKIPPED]))


def _members(raw: bytes) -> list[Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a JWK Set: {_looks_like(raw)}") from error
    members = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(members, list):
        raise ValueError(f"this is not a JWK Set: {_holds(content)}")
    return members


def _looks_like(raw: bytes) -> str:
    start = raw.lstrip()[:200].lower()
    if b"-----begin" in start:
        return "it is PEM, which belongs into jwt.keys as public_key"
    return "it is a web page" if start.startswith(b"<") else "it is not JSON"


def _holds(content: object) -> str:
    if isinstance(content, list):
        return 'it is a list; RFC 7517 asks for an object {"keys": […]} around it'
    if not isinstance(content, dict):
        return "it is not an object"
    if "jwks_uri" in content:
        url = content["jwks_uri"]
        where = f", {url}" if isinstance(url, str) and url.isprintable() and len(url) < 200 else ""
        return f"it is the metadata of an issuer; set jwt.jwks_url to its jwks_uri{where}"
    if "kty" in content:
        return 'it is a single key; RFC 7517 asks for {"keys": […]} around it, or set it as public_key in jwt.keys'
    if content and all(isinstance(one, str) and "-----BEGIN CERTIFICATE" in one for one in content.values()):
        return (
            "it is a map of certificates; set jwt.jwks_url to the issuer's JWK Set (Google's is "
            "https://www.googleapis.com/oauth2/v3/certs), or set them as public_key in jwt.keys"
        )
    return "it is an object without a list of keys"


def _name_of(number: int, member: Any) -> str:
    kid = member.get("kid") if isinstance(member, Mapping) else None
    return f"kid {kid[:100]}" if isinstance(kid, str) else f"key {number + 1} of the set"


def _keys_of(member: Any, rules: KeyRules) -> list[Key]:
    if not isinstance(member, dict):
        raise _Skipped("not an object")
    kty, kid, ops = member.get("kty"), member.get("kid"), member.get("key_ops")
    if kty == "oct":
        raise _Skipped("a secret, which is never taken from a URL")
    if member.get("use") not in _USES:
        raise _Skipped("its use is not sig")
    if ops is not None and not (isinstance(ops, list) and "verify" in ops):
        raise _Skipped("its key_ops do not hold verify")
    if not isinstance(kid, str | None):
        raise _Skipped("its kid is not a string")
    algorithms = _algorithms_of(member, rules)
    public = {name: value for name, value in member.items() if name not in _PRIVATE and value is not None}
    public.pop("alg", None)
    try:
        first = make_key(kid, algorithms[0], _at_full_size(public) if kty == "EC" else public)
    except ValueError as error:
        raise _Skipped(str(error)) from None
    return [Key(kid, alg, first.material) for alg in algorithms]


def _at_full_size(public: Mapping[str, Any]) -> dict[str, Any]:
    """Write the coordinates of an EC key with the leading zeros that RFC 7518, section 6.2.1.2 asks for.

    Some issuers write them as plain numbers: Authlib leaves the zeros out, so that one of its keys in 128 is too short
    (findings/authlib-short-coordinates.sh), and a signed number of Java's has one too many.
    """
    size = _COORDINATE_BYTES[public["crv"]]
    return {name: _padded(value, size) if name in ("x", "y") else value for name, value in public.items()}


def _padded(value: Any, size: int) -> Any:
    try:
        raw = base64.urlsafe_b64decode(value + "==="[: -len(value) % 4])
    except (TypeError, ValueError):
        return value
    return base64.urlsafe_b64encode(raw.lstrip(b"\0").rjust(size, b"\0")).rstrip(b"=").decode()


def _algorithms_of(member: Mapping[str, Any], rules: KeyRules) -> list[str]:
    kty, curve, alg = member.get("kty"), member.get("crv"), member.get("alg")
    if kty == "RSA":
        possible: tuple[str, ...] = RSA_ALGORITHMS
    elif isinstance(curve, str) and (str(kty), curve) in _BY_CURVE:
        possible = _BY_CURVE[str(kty), curve]
    else:
        raise _Skipped("of a kind or curve that is not supported")
    named = rules.default if alg is None else alg
    if named is not None:
        if not isinstance(named, str) or SYNONYMS.get(named, named) not in ASYMMETRIC:
            raise _Skipped("its alg is not supported")
        if named in SYNONYMS and curve != named:
            raise _Skipped(f"this is not a key for {named}")
        named = SYNONYMS.get(named, named)
        if named not in possible:
            raise _Skipped(
                f"this is not a key for {named}" + ("" if alg is not None else ", which jwt.jwks_alg says of it")
            )
        possible = (named,)
    accepted = [one for one in possible if one in rules.algorithms]
    if not accepted:
        raise _Skipped(f"it is for {', '.join(possible)}, which jwt.algorithms does not list")
    return accepted
