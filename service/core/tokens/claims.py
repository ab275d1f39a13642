"""Claims → Identity: what the payload of a genuine token must say (RFC 7519, section 4.1).

Every refusal has a reason for the log that says which claim is wrong and how, without quoting it.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from service.core.errors import ExpiredUserToken, InvalidUserToken
from service.core.tokens.kinds import TokenRules

MAX_USER_CHARS = 512
MIN_CLOCK_LEEWAY_S = 5.0
"""How far `iat` and `nbf` may always be ahead: the clocks of issuer and service differ, and some issuers round up."""
YEAR_10000_S = 253_402_300_800
"""Seconds since the epoch. `exp`, `nbf` and `iat` must be before it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The tenant and the user that a verified token names."""

    tenant: str
    user: str
    expires_ms: int
    """The token's `exp`, in milliseconds since the epoch."""
    issued_s: float | None
    """The token's `iat`, in seconds since the epoch."""


def is_user_id(value: object) -> TypeGuard[str]:
    """Return whether `value` can be a user: 1 to 512 characters, no control characters, no lone surrogates."""
    return isinstance(value, str) and not _fault_of(value)


def _fault_of(user: str) -> str:
    """Return why this text cannot be a user; empty: it can."""
    if not 1 <= len(user) <= MAX_USER_CHARS:
        return f"has more than {MAX_USER_CHARS} characters" if user else "is empty"
    # Printable text contains neither; only other text is checked character by character.
    if not user.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in user):
        return "holds a control character"
    return ""


class ClaimRules:
    """Checks the claims of one issuer's tokens.

    Args:
        tenant: whose users the tokens name.
        issuer: what `iss` must be; None: `iss` is not checked.
        audience: `aud` must name one of these; empty: `aud` is not checked.
        leeway_s: seconds for which a token is accepted after its `exp`; `iat` and `nbf` may lie as far ahead, and at
            least `MIN_CLOCK_LEEWAY_S`.
        subject_claim: the claim that names the user.
        integer_sub: whether that claim may be a whole number, which is then written in decimal.
        tenant_claim: a claim that must name the tenant where it is present and not null; None: no claim is.
        accept_bound_tokens: whether a token that is bound to a key of the client (`cnf`, RFC 7800) is accepted. The
            service does not check the proof of possession.
        user_prefix: precedes the value of the subject claim, so that users of several issuers differ.
        reserved_prefixes: those of the tenant's other issuers. Otherwise a user of one issuer could pass for another's.
        rules: which kinds of token are meant.
    """

    def __init__(
        self,
        tenant: str,
        *,
        issuer: str | None = None,
        audience: Sequence[str] = (),
        leeway_s: float = 0,
        subject_claim: str = "sub",
        integer_sub: bool = False,
        tenant_claim: str | None = "tenant",
        accept_bound_tokens: bool = False,
        user_prefix: str = "",
        reserved_prefixes: Sequence[str] = (),
        rules: TokenRules | None = None,
    ) -> None:
        self.tenant = tenant
        self.issuer = issuer
        self.leeway_s = leeway_s
        self.rules = rules or TokenRules()
        self._ahead_s = max(leeway_s, MIN_CLOCK_LEEWAY_S)
        self.user_prefix = user_prefix
        self._reserved_prefixes = tuple(prefix for prefix in reserved_prefixes if len(prefix) > len(user_prefix))
        self._audience = frozenset(audience)
        self._subject_claim = subject_claim
        self._integer_sub = integer_sub
        self._tenant_claim = tenant_claim
        self._accept_bound_tokens = accept_bound_tokens

    def identity(self, claims: Mapping[str, Any], now_s: float) -> Identity:
        """Return the identity that the claims name.

        Args:
            claims: of a token whose signature is good.
            now_s: seconds since the epoch.

        Raises:
            InvalidUserToken: a claim is missing, malformed, not for this tenant, or not valid yet.
            ExpiredUserToken: all is well but the token's time is over.
        """
        user = self._user(claims)
        expires_s = _numeric_date(claims, "exp")
        if expires_s is None:
            raise InvalidUserToken("exp is missing")
        issued_s = _numeric_date(claims, "iat")
        latest_s = now_s + self._ahead_s
        if issued_s is not None and issued_s > latest_s:
            raise InvalidUserToken(f"not valid yet: iat is {_ahead(issued_s - now_s)}")
        if "nbf" in claims and (not_before_s := _numeric_date(claims, "nbf") or 0) > latest_s:
            raise InvalidUserToken(f"not valid yet: nbf is {_ahead(not_before_s - now_s)}")
        if self._tenant_claim is not None and claims.get(self._tenant_claim) not in (None, self.tenant):
            raise InvalidUserToken(f"the claim {self._tenant_claim} does not name this tenant")
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise InvalidUserToken("iss is not jwt.issuer")
        if self._audience and self._audience.isdisjoint(_audiences(claims)):
            raise InvalidUserToken("aud holds nothing of jwt.audience")
        if claims.get("cnf") is not None and not self._accept_bound_tokens:
            raise InvalidUserToken("bound to a key (cnf), whose proof is not checked: jwt.accept_bound_tokens is false")
        self.rules.check_claims(claims)
        if now_s >= expires_s + self.leeway_s:
            raise ExpiredUserToken
        return Identity(self.tenant, user, int(expires_s * 1000), issued_s)

    def expiry_s(self, identity: Identity) -> float:
        """Return when the token expires, with the leeway, in seconds since the epoch."""
        return identity.expires_ms / 1000 + self.leeway_s

    def _user(self, claims: Mapping[str, Any]) -> str:
        name = self._subject_claim
        user = claims.get(name)
        if type(user) is int and self._integer_sub:
            user = str(user)
        if not isinstance(user, str):
            raise InvalidUserToken(f"{name} {self._type_fault(user)}")
        if fault := _fault_of(user):
            raise InvalidUserToken(f"{name} {fault}")
        if self.user_prefix:
            user = f"{self.user_prefix}{user}"
            if len(user) > MAX_USER_CHARS:
                raise InvalidUserToken(f"{name} has more than {MAX_USER_CHARS} characters with jwt.user_prefix")
        if self._reserved_prefixes and user.startswith(self._reserved_prefixes):
            raise InvalidUserToken(f"{name} begins with the user_prefix of another issuer")
        return user

    def _type_fault(self, user: object) -> str:
        if user is None:
            return "is missing; jwt.subject_claim names the claim that holds the user"
        if type(user) is int:
            return "is a number, which jwt.integer_sub accepts"
        return "is not a string"


def _ahead(by_s: float) -> str:
    return f"{by_s:.0f} s ahead of this clock" if by_s < 1e9 else "far ahead of this clock"


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, section 2), or None where the claim is absent.

    Raises:
        InvalidUserToken: the claim is not a number, or not before the year 10000.
    """
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float):  # not isinstance: a bool is an int to Python
        raise InvalidUserToken(f"{name} is not a number")
    if not -YEAR_10000_S < value < YEAR_10000_S:  # false for NaN and the infinities too
        raise InvalidUserToken(f"{name} is not before the year 10000; it is in seconds")
    return value  # type: ignore[no-any-return]  # its type was just checked


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    audience = claims.get("aud")
    values = audience if isinstance(audience, list) else [audience]
    return [value for value in values if isinstance(value, str)]
