"""The kinds of token that are accepted: the header's `typ`, and required claims (RFC 8725, sections 3.11 and 3.12).

An issuer signs more than its users' tokens with the same keys: logout tokens, security events, introspection
responses. None of these may pass for a user's token.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.core.errors import InvalidUserToken

Scalar = str | int | float | bool
"""The values that a claim can be required to have."""

FOREIGN_TYPES = frozenset(
    {
        "logout+jwt",  # OpenID Connect Back-Channel Logout 1.0, section 2.4
        "secevent+jwt",  # RFC 8417, section 2.3
        "dpop+jwt",  # RFC 9449, section 4.2
        "token-introspection+jwt",  # RFC 9701, section 5
        "global-token-revocation+jwt",  # draft-parecki-oauth-global-token-revocation
    }
)
"""Types that are registered for something other than a user's token. No setting accepts them."""

_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")
"""An absolute URI (RFC 3986, section 4.3), also with characters beyond ASCII (RFC 3987)."""


def normalized_type(typ: str) -> str:
    """Return a media type for comparison: in lower case, without `application/` and without parameters.

    RFC 7515, section 4.1.9: a type without a slash means the same with `application/` before it.
    """
    return typ.partition(";")[0].strip().lower().removeprefix("application/")


class TokenRules:
    """Decides whether a token with a good signature is of a kind that is accepted.

    Args:
        types: the header types that are taken, `None` among them for a token without one; None instead of a list:
            all but the foreign ones.
        require: claim → the values, one of which it must have (where the claim is an array: contain).
    """

    def __init__(
        self, types: Sequence[str | None] | None = None, require: Mapping[str, Sequence[Scalar]] | None = None
    ) -> None:
        self._types = None if types is None else frozenset(t if t is None else normalized_type(t) for t in types)
        self._require = tuple((require or {}).items())

    def check_header(self, header: Mapping[str, Any]) -> None:
        """Check the header's `typ`; null counts as absent.

        Raises:
            InvalidUserToken: the type is not a string, or not one that is taken.
        """
        typ = header.get("typ")
        if typ is not None:
            if not isinstance(typ, str):
                raise InvalidUserToken("malformed header")
            typ = normalized_type(typ)
            if typ in FOREIGN_TYPES:
                raise InvalidUserToken("of a type that is registered for something else")
        if self._types is not None and typ not in self._types:
            raise InvalidUserToken("of a type that jwt.types does not list")

    def check_claims(self, claims: Mapping[str, Any]) -> None:
        """Check that the claims are not those of a security event, and have the required values.

        Raises:
            InvalidUserToken: the token is a security event, or lacks a required value.
        """
        events = claims.get("events")
        if isinstance(events, dict) and any(map(_ABSOLUTE_URI.fullmatch, events)):
            raise InvalidUserToken("a security event")  # RFC 8417, section 2.2
        for name, wanted in self._require:
            if not _holds(claims.get(name), wanted):
                raise InvalidUserToken(f"the claim {name} is not what jwt.require asks for")


def _holds(claim: Any, wanted: Sequence[Scalar]) -> bool:
    values = claim if isinstance(claim, list) else [claim]
    return any(_equal(value, one) for value in values for one in wanted)


def _equal(value: Any, wanted: Scalar) -> bool:
    # To Python True is 1; in JSON it is not.
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
