"""JWT → Identity: key rings, what a token must be, and the cache of tokens already verified.

PyJWT verifies signatures and the header (RFC 7515). The claims are checked here, because the contract is
stricter than RFC 7519 where it matters: no duplicate members, numbers that are numbers, a bounded `sub`,
and a clock that is passed in.
"""

import json
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, TypeGuard

import jwt
from jwt.algorithms import get_default_algorithms

from service.core.errors import ExpiredUserToken, InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.kinds import TokenRules

MAX_TOKEN_CHARS = 8192
"""A longer token is refused unread."""
MAX_USER_CHARS = 128
YEAR_10000_S = 253_402_300_800
"""Seconds since the epoch; `exp`, `nbf` and `iat` lie before it."""
MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
ALGORITHMS = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"),
)
ASYMMETRIC = tuple(alg for alg in ALGORITHMS if not alg.startswith("HS"))
"""Those that a JWKS URL may bring: a secret is never taken from one."""
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1"}


@dataclass(frozen=True, slots=True)
class Key:
    """A verification key with the one algorithm it is for."""

    kid: str | None
    alg: str
    material: Any
    """What PyJWT prepared of the secret or the PEM; never shown."""

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, alg={self.alg!r})"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token names."""

    tenant: str
    user: str
    expires_ms: int
    """The token's `exp`, in milliseconds since the epoch."""
    issued_s: float | None
    """The token's `iat`, in seconds since the epoch."""


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
            prepared = get_default_algorithms()[alg].prepare_key(material)
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


class RemoteKeys(Enum):
    """What a tenant's ring has of a JWKS URL."""

    NONE = "no URL is configured"
    CURRENT = "what the last fetch brought"
    STALE = "the last fetch failed, and the keys of the one before are kept"
    ABSENT = "no fetch has succeeded, or too long ago"


class KeyRing:
    """A tenant's keys, and what its tokens must say.

    Keys of the configuration stay as they are; those of a JWKS URL come and go by `replace_remote`.
    """

    def __init__(
        self,
        tenant: str,
        keys: Sequence[Key],
        *,
        issuer: str | None = None,
        audience: Sequence[str] = (),
        leeway_s: float = 0,
        rules: TokenRules | None = None,
    ) -> None:
        self.tenant = tenant
        self.leeway_s = leeway_s
        self._configured = tuple(keys)
        self._keys = self._configured
        self._remote_keys: tuple[Key, ...] = ()
        self._remote = RemoteKeys.NONE
        self._issuer = issuer
        self._audience = frozenset(audience)
        self._rules = rules or TokenRules()
        self.generation = object()
        """Another object whenever the keys change: what was verified by an older one counts no more."""

    def replace_remote(self, keys: Iterable[Key], state: RemoteKeys = RemoteKeys.CURRENT) -> None:
        """Take `keys` as what the JWKS URL holds now. A configured key wins over one of the same `kid`."""
        self._remote, keys = state, tuple(keys)
        if keys == self._remote_keys:
            return  # what was verified stays verified
        self._remote_keys = keys
        own = {key.kid for key in self._configured}
        self._keys = self._configured + tuple(key for key in keys if key.kid not in own)
        self.generation = object()

    def verify(self, token: str, now_s: float) -> Identity:
        """Return who `token` names.

        Args:
            token: a JWS in compact serialisation (RFC 7515, section 7.1).
            now_s: seconds since the epoch.

        Raises:
            UnknownKey: the token's `kid` is not on the ring; a refetch may bring it.
            KeysUnavailable: no key on the ring is the token's, and the key set that may hold it could not be fetched.
            InvalidUserToken: malformed, forged, or not for this tenant; or not valid yet.
            ExpiredUserToken: all is well but its time is over.
        """
        if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2 or "=" in token or not token.isascii():
            raise InvalidUserToken("no JWS in compact form")
        claims = _strict_json(self._verified_payload(token))
        return self._identity(claims, now_s)

    def expiry_s(self, identity: Identity) -> float:
        """When the token's time is over, the leeway included, in seconds since the epoch."""
        return identity.expires_ms / 1000 + self.leeway_s

    def _verified_payload(self, token: str) -> bytes:
        try:
            header = jwt.get_unverified_header(token)
            _strict_json(jwt.utils.base64url_decode(token.partition(".")[0]))
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidUserToken("malformed header") from error
        self._rules.check_header(header)
        for key in self._candidates(header):
            try:
                payload: bytes = _JWS.decode_complete(token, key.material, algorithms=[key.alg])["payload"]
            except jwt.PyJWTError:
                continue
            return payload
        if self._remote is RemoteKeys.ABSENT and header.get("kid") is None and header.get("alg") in ASYMMETRIC:
            raise KeysUnavailable("the key set could not be fetched")
        raise InvalidUserToken("no key verifies the signature")

    def _candidates(self, header: Mapping[str, Any]) -> list[Key]:
        """The keys that may verify a token: the one its `kid` names, or all of its algorithm."""
        alg, kid = header.get("alg"), header.get("kid")
        if kid is None:
            return [key for key in self._keys if key.alg == alg]
        named = [key for key in self._keys if key.kid == kid]
        if not named:
            if alg not in ASYMMETRIC:  # no URL can bring it
                raise InvalidUserToken("unknown kid")
            if self._remote in (RemoteKeys.ABSENT, RemoteKeys.STALE):
                raise KeysUnavailable("unknown kid, and the key set could not be fetched")
            raise UnknownKey("unknown kid")
        return [key for key in named if key.alg == alg]

    def _identity(self, claims: Mapping[str, Any], now_s: float) -> Identity:
        user = claims.get("sub")
        expires_s = _numeric_date(claims, "exp")
        not_before_s = _numeric_date(claims, "nbf")
        issued_s = _numeric_date(claims, "iat")
        if not is_user_id(user) or expires_s is None:
            raise InvalidUserToken("no usable sub or exp")
        if any(moment is not None and moment > now_s + self.leeway_s for moment in (not_before_s, issued_s)):
            raise InvalidUserToken("not valid yet")
        if "tenant" in claims and claims["tenant"] != self.tenant:
            raise InvalidUserToken("another tenant")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise InvalidUserToken("another issuer")
        if self._audience and self._audience.isdisjoint(_audiences(claims)):
            raise InvalidUserToken("another audience")
        self._rules.check_claims(claims)
        identity = Identity(self.tenant, user, int(expires_s * 1000), issued_s)
        if now_s >= self.expiry_s(identity):
            raise ExpiredUserToken
        return identity


class VerifiedTokens:
    """Tokens already verified, until their expiry. Bounded by the characters it holds, oldest out first."""

    def __init__(self, max_chars: int = 32 * 1024 * 1024) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._entries: OrderedDict[str, tuple[object, float, Identity]] = OrderedDict()
        """Token → the generation of the keys that verified it, when it expires (s), whom it names."""

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, ring: KeyRing, token: str, now_s: float) -> Identity:
        """Like `ring.verify(token, now_s)`, remembered for as long as the ring's keys stay the same."""
        entry = self._entries.get(token)
        if entry is not None and entry[0] is ring.generation:
            if now_s < entry[1]:
                return entry[2]
            raise ExpiredUserToken
        identity = ring.verify(token, now_s)
        if entry is None:
            self._chars += len(token)
        self._entries[token] = (ring.generation, ring.expiry_s(identity), identity)
        while self._chars > self._max_chars:
            oldest, _ = self._entries.popitem(last=False)
            self._chars -= len(oldest)
        return identity


def is_user_id(value: object) -> TypeGuard[str]:
    """Whether `value` can be a user: 1 to 128 characters, no control characters, no lone surrogates."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_USER_CHARS
        and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
    )


_JWS = jwt.PyJWS(algorithms=list(ALGORITHMS))


def _strict_json(raw: bytes) -> dict[str, Any]:
    """One JSON object without duplicate members, NaN or infinities (RFC 8725, section 2.4)."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidUserToken("malformed JSON") from error
    if not isinstance(value, dict):
        raise InvalidUserToken("malformed JSON")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2) or None where the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    # Not isinstance: a bool is an int to Python. The comparison is false for NaN and the infinities.
    if type(value) not in (int, float) or not -YEAR_10000_S < value < YEAR_10000_S:
        raise InvalidUserToken("malformed time")
    return value  # type: ignore[no-any-return]  # its type was just checked


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    audience = claims.get("aud")
    values = audience if isinstance(audience, list) else [audience]
    return [value for value in values if isinstance(value, str)]
