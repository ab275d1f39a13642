"""Several issuers of one tenant: each token is judged by the keys and rules of its own issuer alone.

Which issuer that is, the token says itself (`iss`), before anything of it is verified. A wrong answer selects keys that
do not verify it.
"""

from collections.abc import Sequence

from service.core.errors import InvalidUserToken
from service.core.tokens.claims import Identity
from service.core.tokens.compact import decoded, json_object
from service.core.tokens.verification import KeyRing, parts_of


class Issuers:
    """The key rings of a tenant with several issuers; has the interface of a single ring.

    Args:
        rings: one for each issuer. Their issuers differ, and so do their prefixes of users.
    """

    def __init__(self, rings: Sequence[KeyRing]) -> None:
        self.rings = tuple(rings)
        self.tenant = self.rings[0].tenant
        self._by_issuer = {ring.claims.issuer: ring for ring in self.rings}
        self._by_prefix = sorted(self.rings, key=lambda ring: len(ring.claims.user_prefix), reverse=True)
        self._generations: tuple[object, ...] = ()
        self._generation = object()

    @property
    def generation(self) -> object:
        """A new object whenever the keys of any issuer change."""
        generations = tuple([ring.generation for ring in self.rings])
        if generations != self._generations:
            self._generations, self._generation = generations, object()
        return self._generation

    @property
    def leeway_s(self) -> float:
        """The longest leeway of any issuer, in seconds."""
        return max(ring.leeway_s for ring in self.rings)

    def verify(self, token: str, now_s: float) -> Identity:
        """Return the identity that `token` names; see `KeyRing.verify`."""
        parts = parts_of(token)
        claims = json_object(decoded(parts[1]))
        issuer = claims.get("iss")
        ring = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if ring is None:
            raise InvalidUserToken("iss is the issuer of none of the blocks of jwt")
        return ring.judge(parts, now_s, claims)

    def expiry_s(self, identity: Identity) -> float:
        """When the token's time is over, the leeway of its issuer included, in seconds since the epoch."""
        # No user of one issuer begins with the longer prefix of another: `ClaimRules` refuses it.
        ring = next(ring for ring in self._by_prefix if identity.user.startswith(ring.claims.user_prefix))
        return ring.expiry_s(identity)
