"""Verification of JWTs: key rings, and the cache of verified tokens.

`signatures.py` verifies signatures. Header and claims are checked here, because the service is stricter than PyJWT: it
refuses duplicate members and numbers in quotes, bounds `sub`, and takes the time as an argument. Each part of a token
is read once.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from service.core.errors import ExpiredUserToken, InvalidUserToken, KeysUnavailable, UnknownKey
from service.core.tokens.claims import ClaimRules, Identity
from service.core.tokens.compact import decoded, header_of, json_object
from service.core.tokens.keys import ALGORITHMS, NAMES, SYMMETRIC, SYNONYMS, Key

MAX_TOKEN_CHARS = 12 * 1024
"""The most characters of a token; a longer one is refused unread. Entra ID's with 200 groups has 11,687."""
MAX_HEADERS = 1000
"""How many headers a ring caches."""
MAX_HEADER_CHARS = 1024
"""The most characters of a header that is cached."""


Parts = tuple[bytes, bytes, bytes]
"""Header, payload and signature, as they were sent."""


def parts_of(token: str) -> Parts:
    """Split a token.

    Raises:
        InvalidUserToken: it does not have three parts, or too many characters.
    """
    if len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise InvalidUserToken("no JWS in compact form")
    parts = token.encode().split(b".")
    if len(parts) != 3:
        raise InvalidUserToken("no JWS in compact form")
    return parts[0], parts[1], parts[2]


class Verifier(Protocol):
    """What verifies a tenant's tokens: the key ring of its issuer, or of several."""

    @property
    def generation(self) -> object:
        """A new object whenever the keys change."""

    @property
    def leeway_s(self) -> float:
        """Seconds for which a token is accepted after its `exp`, at most."""

    def verify(self, token: str, now_s: float) -> Identity:
        """Return the identity that `token` names; see `KeyRing.verify`."""

    def expiry_s(self, identity: Identity) -> float:
        """When the token's time is over, the leeway included, in seconds since the epoch."""


class RemoteKeys(Enum):
    """The state of the keys from a JWKS URL."""

    NONE = "no URL is configured"
    CURRENT = "what the last fetch brought"
    STALE = "the last fetch failed, and the keys of the one before are kept"
    ABSENT = "no fetch has succeeded, or too long ago"


class KeyRing:
    """The keys of one issuer of a tenant, and what its tokens must have.

    Keys of the configuration stay as they are; those of a JWKS URL come and go by `replace_remote`.

    Args:
        tenant: whose users the tokens name.
        keys: those of the configuration.
        claims: what tokens must say.
        algorithms: those that are accepted.
        allow_unknown_kid: whether a token whose `kid` is not held is checked with the configured keys without `kid`.
    """

    def __init__(
        self,
        tenant: str,
        keys: Sequence[Key],
        claims: ClaimRules | None = None,
        *,
        algorithms: Collection[str] = ALGORITHMS,
        allow_unknown_kid: bool = False,
    ) -> None:
        self.tenant = tenant
        self._names = frozenset(name for name in NAMES if SYNONYMS.get(name, name) in algorithms)
        self.claims = claims or ClaimRules(tenant)
        self._configured = tuple(keys)
        self._allow_unknown_kid = allow_unknown_kid
        self._remote_keys: tuple[Key, ...] = ()
        self._remote = RemoteKeys.NONE
        self._proven: dict[bytes, Key] = {}
        """Header as sent → the key that verified a token with it. An issuer's tokens share few headers."""
        self._index()
        self.generation = object()
        """A new object whenever the keys change: tokens that older keys verified are checked again."""

    def replace_remote(self, keys: Iterable[Key], state: RemoteKeys = RemoteKeys.CURRENT) -> None:
        """Take `keys` as what the JWKS URL holds now. A configured one wins over one of its `kid` and algorithm."""
        self._remote, keys = state, tuple(keys)
        if keys == self._remote_keys:
            return  # what was verified stays verified
        self._remote_keys = keys
        self._index()
        self._proven.clear()
        self.generation = object()

    def _index(self) -> None:
        own = {(key.kid, key.alg) for key in self._configured if key.kid is not None}
        remote = [key for key in self._remote_keys if (key.kid, key.alg) not in own]
        self._by_kid: dict[tuple[str, str], list[Key]] = {}
        """(`kid`, a token's `alg`) → the keys of it: usually one."""
        self._by_alg: dict[str, list[Key]] = {}
        """A token's `alg` → all keys that it can be of."""
        for key in (*self._configured, *remote):
            for name in key.names:
                self._by_alg.setdefault(name, []).append(key)
                if key.kid is not None:
                    self._by_kid.setdefault((key.kid, name), []).append(key)
        self._kids = {kid for kid, _ in self._by_kid}
        self._from_url = {id(key) for key in remote}

    def verify(self, token: str, now_s: float) -> Identity:
        """Return the identity that `token` names.

        Args:
            token: a JWS in compact serialisation (RFC 7515, section 7.1).
            now_s: seconds since the epoch.

        Raises:
            UnknownKey: no key that is held verifies it, and a refetch of the key set may bring one that does.
            KeysUnavailable: no key on the ring is the token's, and the key set that may hold it could not be fetched.
            InvalidUserToken: malformed, forged, or not for this tenant; or not valid yet.
            ExpiredUserToken: all is well but its time is over.
        """
        return self.judge(parts_of(token), now_s)

    def judge(self, parts: Parts, now_s: float, claims: dict[str, Any] | None = None) -> Identity:
        """Do what `verify` does, for a token whose parts are known, and perhaps its claims."""
        header, payload, signature = parts
        message, raw_signature = b"%b.%b" % (header, payload), decoded(signature)
        key = self._proven.get(header)
        if key is None or not key.verifies(message, raw_signature):
            self._prove(header, message, raw_signature, failed=key)
        return self.claims.identity(json_object(decoded(payload)) if claims is None else claims, now_s)

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
        alg, kid = header.get("alg"), header.get("kid")
        if not isinstance(alg, str) or alg not in self._names:
            listed = "jwt.algorithms lists" if alg in NAMES else "are supported"
            raise InvalidUserToken(f"its alg is none of those that {listed}")
        candidates = self._candidates(alg, kid)
        for key in candidates:
            if key is not failed and key.verifies(message, signature):
                if len(raw_header) <= MAX_HEADER_CHARS:
                    if len(self._proven) >= MAX_HEADERS:
                        self._proven.clear()
                    self._proven[raw_header] = key
                return
        raise self._refusal(alg, kid, candidates)

    def _candidates(self, alg: str, kid: str | None) -> list[Key]:
        """The keys that may verify a token: the one its `kid` names, or all of its algorithm."""
        if kid is None:
            return self._by_alg.get(alg, [])
        if kid not in self._kids and self._allow_unknown_kid:
            return [key for key in self._configured if key.kid is None and alg in key.names]
        return self._by_kid.get((kid, alg), [])

    def _refusal(self, alg: str, kid: str | None, candidates: Sequence[Key]) -> InvalidUserToken | KeysUnavailable:
        """Return the error for a token that no key verifies: whether the keys are at fault, or the token."""
        reason = self._reason(alg, kid, candidates)
        if self._remote is RemoteKeys.NONE or alg in SYMMETRIC:  # no URL brings a secret
            return InvalidUserToken(reason)
        is_known = kid is not None and (kid, alg) in self._by_kid
        if self._remote is RemoteKeys.ABSENT and not is_known:
            return KeysUnavailable("the key set could not be fetched", self)
        if self._remote is RemoteKeys.STALE and kid is not None and kid not in self._kids:
            return KeysUnavailable("unknown kid, and the key set could not be fetched", self)
        if any(id(key) in self._from_url for key in candidates):
            return UnknownKey(reason, self, is_announced=False)  # perhaps the issuer rotated without another kid
        # Keys of the configuration do not rotate by themselves.
        return InvalidUserToken(reason) if is_known else UnknownKey(reason, self)

    def _reason(self, alg: str, kid: str | None, candidates: Sequence[Key]) -> str:
        if candidates:
            return "no key verifies the signature"
        if kid is None:
            return f"without kid, and no key is for {alg}"
        if kid not in self._kids:
            return "unknown kid"
        held = ", ".join(dict.fromkeys(name for one, name in self._by_kid if one == kid))
        return f"signed with {alg}, and the key of its kid is for {held} (its alg, jwt.algorithms, jwt.jwks_alg)"


class VerifiedTokens:
    """A cache of verified tokens, until their expiry. It has a bound of characters, and drops the oldest first."""

    def __init__(self, max_chars: int = 32 * 1024 * 1024) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._entries: OrderedDict[str, tuple[object, float, Identity]] = OrderedDict()
        """Token → the generation of the keys that verified it, its expiry (s), its identity."""

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, ring: Verifier, token: str, now_s: float) -> Identity:
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
