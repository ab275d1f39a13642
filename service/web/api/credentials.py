"""The credentials of a request: the tenant's token, the user's token, an operator's bearer token.

One credential a request. A field that is sent twice, or two tokens that differ, can be read in two ways: what is
judged here would not be what the API behind a proxy takes. Such a request is refused, whichever of them is good.
"""

import re
from collections import Counter
from collections.abc import Set as AbstractSet

from aiohttp import hdrs
from multidict import MultiMapping, istr

from service.core.errors import (
    InvalidRequest,
    InvalidTenantToken,
    InvalidUserToken,
    MissingTenantToken,
    MissingUserToken,
)
from service.core.tokens.verification import MAX_TOKEN_CHARS

TENANT_TOKEN, USER_TOKEN, PASSIVE = istr("x-tenant-token"), istr("x-token"), istr("x-passive")
SEC_PURPOSE = istr("sec-purpose")
_AUTHORIZATION = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?: +(.*))?", re.DOTALL)
"""A scheme and what follows it (RFC 9110, section 11.4)."""


def repeated_fields(headers: MultiMapping[str]) -> frozenset[str]:
    """Return the names, in lower case, of the fields that are sent more than once."""
    if len(headers) == len(headers.keys()):
        return NONE
    return frozenset(name for name, times in Counter(name.lower() for name, _ in headers.items()).items() if times > 1)


NONE: frozenset[str] = frozenset()


def tenant_token(headers: MultiMapping[str], repeated: AbstractSet[str]) -> str:
    """Return the tenant's token.

    Raises:
        MissingTenantToken: there is none.
        InvalidTenantToken: the field is repeated.
    """
    token = headers.get(TENANT_TOKEN)
    if not token or repeated:
        if "x-tenant-token" in repeated:
            raise InvalidTenantToken
        if not token:
            raise MissingTenantToken
    return token


def user_token(headers: MultiMapping[str], repeated: AbstractSet[str]) -> str:
    """Return the user's token: `x-token`, or in its place `authorization: Bearer …` (RFC 6750, section 2.1).

    An empty field counts as absent. Another scheme beside `x-token` is not checked: a site may be behind Basic
    authentication.

    Raises:
        MissingUserToken: there is none.
        InvalidUserToken: a field is repeated, the two differ, or the only one is bound to a key (DPoP, RFC 9449).
    """
    token, credentials = headers.get(USER_TOKEN), headers.get(hdrs.AUTHORIZATION)
    if repeated and ("x-token" in repeated or "authorization" in repeated):
        raise InvalidUserToken("a field of credentials is repeated")
    if credentials:
        token = _one_token(token, credentials)
    if not token:
        raise MissingUserToken
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidUserToken("too long")
    return token


def _one_token(token: str | None, credentials: str) -> str:
    parts = _AUTHORIZATION.fullmatch(credentials)
    scheme, given = (parts[1].lower(), (parts[2] or "").strip(" \t")) if parts else ("", "")
    if token:
        if not scheme or (scheme == "bearer" and given != token):
            raise InvalidUserToken("authorization has another token than x-token")
        return token
    if scheme == "dpop":
        raise InvalidUserToken("a token that is bound to a key (DPoP)")
    return given if scheme == "bearer" else ""


def is_passive(headers: MultiMapping[str], repeated: AbstractSet[str]) -> bool:
    """Return whether the request must leave the user's status as it is.

    Raises:
        InvalidRequest: the field is repeated, or is neither `true` nor `false`.
    """
    given = headers.get(PASSIVE)
    if given is None:
        return False
    if "x-passive" in repeated:
        raise sent_more_than_once("x-passive")
    value = given.strip(" \t").lower()  # of white space, only what a field's value may have around it
    if value not in ("true", "false"):
        raise InvalidRequest([("x-passive", "must be true or false")])
    return value == "true"


def is_prefetch(headers: MultiMapping[str]) -> bool:
    """Return whether a browser sends the request in advance, before the user asks (`Sec-Purpose`, Fetch standard)."""
    return SEC_PURPOSE in headers and any("prefetch" in value.lower() for value in headers.getall(SEC_PURPOSE))


def bearer_token(headers: MultiMapping[str]) -> str | None:
    """Return an operator's token, or that of the metrics; None: there is none, or the field is repeated."""
    given = headers.getall(hdrs.AUTHORIZATION, ())
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip(" \t") if scheme.lower() == "bearer" else None


def sent_more_than_once(*names: str) -> InvalidRequest:
    """Return the error for fields that may be sent only once and are repeated."""
    return InvalidRequest([(name, "is sent more than once") for name in names])
