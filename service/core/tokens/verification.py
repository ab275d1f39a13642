"""Verification of JWTs: key rings, and the cache of verified tokens.

PyJWT's algorithms verify signatures. Header and claims are checked here, because the contract is stricter than
RFC 7519 where it matters: no duplicate members, numbers that are numbers, a bounded `sub`, and a clock that is
passed in. Each part of a token is read once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from service.core.errors import ExpiredUserToken, InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.claims import ClaimRules, Identity
from service.core.tokens.compact import decoded, header_of, json_object
from service.core.tokens.keys import ASYMMETRIC, Key

MAX_TOKEN_CHARS = 12 * 1024
"""The most characters of a token; a longer one is refused unread. Entra ID's with 200 groups has 11,687."""
MAX_HEADERS = 1000
"""How many headers a ring caches."""
MAX_HEADER_CHARS = 1024
"""The most characters of a header that is cached."""


class RemoteKeys(Enum):
    """The state of the keys from a JWKS URL."""

    NONE = "no URL is configured"
    CURRENT = "what the last fetch brought"
    STALE = "the last fetch failed, and the keys of the one before are kept"
    ABSENT = "no fetch has succeeded, or too long ago"


class KeyRing:
    """A tenant's keys, and what its tokens must have.

    Keys of the configuration stay as they are; those of a JWKS URL come and go by `replace_remote`.
    """

    def __init__(self, tenant: str, keys: Sequence[Key], claims: ClaimRules | None = None) -> None:
        self.tenant = tenant
        self.claims = claims or ClaimRules(tenant)
        self._configured = tuple(keys)
        self._keys = self._configured
        self._remote_keys: tuple[Key, ...] = ()
        self._remote = RemoteKeys.NONE
        self._proven: dict[bytes, Key] = {}
        """Header as sent → the key that verified a token with it. An issuer's tokens share few headers."""
        self.generation = object()
        """A new object whenever the keys change: tokens that older keys verified are checked again."""

    def replace_remote(self, keys: Iterable[Key], state: RemoteKeys = RemoteKeys.CURRENT) -> None:
        """Set the keys that the JWKS URL has now. A configured key has priority over one with the same `kid`."""
        self._remote, keys = state, tuple(keys)
        if keys == self._remote_keys:
            return  # what was verified stays verified
        self._remote_keys = keys
        own = {key.kid for key in self._configured}
        self._keys = self._configured + tuple(key for key in keys if key.kid not in own)
        self._proven.clear()
        self.generation = object()

    def verify(self, token: str, now_s: float) -> Identity:
        """Return the identity that `token` names.

        Args:
            token: a JWS in compact serialisation (RFC 7515, section 7.1).
            now_s: seconds since the epoch.

        Raises:
            UnknownKey: the token's `kid` is not on the ring; a refetch may bring it.
            KeysUnavailable: no key on the ring is the token's, and the key set that may hold it could not be fetched.
            InvalidUserToken: malformed, forged, or not for this tenant; or not valid yet.
            ExpiredUserToken: all is well but its time is over.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise InvalidUserToken("no JWS in compact form")
        parts = token.encode().split(b".")
        if len(parts) != 3:
            raise InvalidUserToken("no JWS in compact form")
        header, payload, signature = parts
        message, raw_signature = b"%b.%b" % (header, payload), decoded(signature)
        key = self._proven.get(header)
        if key is None or not key.verifies(message, raw_signature):
            self._prove(header, message, raw_signature, failed=key)
        return self.claims.identity(json_object(decoded(payload)), now_s)

    @property
    def leeway_s(self) -> float:
        """Seconds for which a token is accepted after its `exp`."""
        return self.claims.leeway_s

    def expiry_s(self, identity: Identity) -> float:
        """Return when the token expires, with the leeway, in seconds since the epoch."""
        return self.claims.expiry_s(identity)

    def _prove(self, raw_header: bytes, message: bytes, signature: bytes, failed: Key | None) -> None:
        """Find the key, other than `failed`, that verifies the signature, and cache it with the header."""
        header = header_of(raw_header)
        self.claims.rules.check_header(header)
        for key in self._candidates(header):
            if key is not failed and key.verifies(message, signature):
                if len(raw_header) <= MAX_HEADER_CHARS:
                    if len(self._proven) >= MAX_HEADERS:
                        self._proven.clear()
                    self._proven[raw_header] = key
                return
        if self._remote is RemoteKeys.ABSENT and header.get("kid") is None and header.get("alg") in ASYMMETRIC:
            raise KeysUnavailable("the key set could not be fetched")
        raise InvalidUserToken("no key verifies the signature")

    def _candidates(self, header: Mapping[str, Any]) -> list[Key]:
        """Return the keys that may verify a token: the one that its `kid` names, or all of its algorithm."""
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


class VerifiedTokens:
    """A cache of verified tokens, until their expiry. It has a bound of characters, and drops the oldest first."""

    def __init__(self, max_chars: int = 32 * 1024 * 1024) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._entries: OrderedDict[str, tuple[object, float, Identity]] = OrderedDict()
        """Token → the generation of the keys that verified it, its expiry (s), its identity."""

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, ring: KeyRing, token: str, now_s: float) -> Identity:
        """Do the same as `ring.verify(token, now_s)`, with a cache that is valid as long as the ring's keys."""
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
