"""The compact serialisation of a signed token (RFC 7515, section 7.1): strict Base64url and strict JSON.

Two readers that disagree about a token are a way around a check. So each part has exactly one spelling here:
no padding, no foreign characters, no unused bits, and no member that appears twice.
"""

import json
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any, NoReturn

from service.core.errors import InvalidUserToken

_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/..")
"""Translates Base64url to Base64. Characters that only Base64 has become an invalid one."""
_TO_URL = bytes.maketrans(b"+/", b"-_")


def decoded(part: bytes) -> bytes:
    """Decode one part of a token.

    Raises:
        InvalidUserToken: the part is not what an encoder writes for these bytes (RFC 4648, sections 3.2 to 3.5).
    """
    try:
        raw = a2b_base64(part.translate(_TO_STANDARD) + b"==="[: -len(part) % 4])
    except Base64Error:
        raise InvalidUserToken("malformed Base64url") from None
    if b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL) != part:
        raise InvalidUserToken("malformed Base64url")
    return raw


def json_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object without duplicate members, NaN or infinities (RFC 8725, section 2.4).

    Raises:
        InvalidUserToken: it is something else.
    """
    try:
        value = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError):
        raise InvalidUserToken("malformed JSON") from None
    if not isinstance(value, dict):
        raise InvalidUserToken("malformed JSON")
    return value


def header_of(part: bytes) -> dict[str, Any]:
    """Parse the header. Refuse members that change how the rest is read.

    Raises:
        InvalidUserToken: it is malformed, its `kid` is no string, or it needs an extension (RFC 7515, section 4.1.11)
            that is not supported. Of RFC 7797 only the default, an encoded payload, is.
    """
    header = json_object(decoded(part))
    if "kid" in header and not isinstance(header["kid"], str):
        raise InvalidUserToken("malformed header")
    if header.get("b64", True) is not True:
        raise InvalidUserToken("an unencoded payload (b64)")
    if "crit" in header and not (_is_crit(header["crit"]) and "b64" in header):
        raise InvalidUserToken("an extension that is not supported (crit)")
    return header


def _is_crit(names: object) -> bool:
    return isinstance(names, list) and bool(names) and all(name == "b64" for name in names)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
