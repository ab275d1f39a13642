"""Names of header fields that no client may send through a proxy, and all the ways in which a client may write them."""

from collections.abc import Iterator
from itertools import product

IDENTITY = ("x-auth-tenant", "x-auth-user", "x-auth-status", "x-auth-expires")
"""What Rollcall says of who is admitted."""

PROTECTED = (
    *(*IDENTITY, "x-auth-admitted", "x-auth-roles", "x-auth-groups", "x-auth-email", "x-auth-request-user"),
    *("x-deny-status", "x-deny-body", "x-rewrite-url", "x-real-ip", "forwarded"),
    *(f"x-forwarded-{what}" for what in ("for", "host", "proto", "port", "server", "prefix", "uri", "method")),
    *(f"x-forwarded-{what}" for what in ("scheme", "ssl", "user", "email", "groups", "access-token")),
    *(f"x-original-{what}" for what in ("method", "uri", "url", "host", "forwarded-for")),
    *("remote-user", "remote-groups", "remote-addr", "x-remote-user", "x-remote-groups"),
    *("x-http-method", "x-http-method-override", "x-method-override"),
)
"""Those that real software believes."""

UNLISTED = ("x-auth-anything", "x-deny-anything", "x-forwarded-anything", "x-forwarded-fo", "x-forwarded-ports",
            "x-original-anything", "remote-anything", "x-remote-anything")  # fmt: skip
"""Of the same families, and nobody's: only a proxy that knows a family by its beginning finds them."""

SIGNS = "!#$%&'*+.^`|~"
"""What a field's name may hold beside letters, digits, `-` and `_` (RFC 9110, section 5.6.2)."""


def written(name: str) -> list[str]:
    """The name itself, in any case."""
    return [name, name.title(), name.upper(), name.title().swapcase()]


def underscored(name: str) -> list[str]:
    """The name with `_` for each `-` or for some: what CGI and WSGI take for the name itself."""
    parts = name.split("-")
    found = []
    for separators in list(product("-_", repeat=len(parts) - 1))[1:]:
        one = parts[0] + "".join(sign + part for sign, part in zip(separators, parts[1:], strict=True))
        found += [one, one.title(), one.upper()]
    return found


def with_signs(name: str) -> list[str]:
    """The name with another sign for each `-`, or for the first: PHP and lighttpd make `_` of them."""
    return [one for sign in SIGNS if "-" in name for one in (name.replace("-", sign), name.replace("-", sign, 1))]


def all_of(name: str) -> Iterator[str]:
    """Each once; `Connection` of HTTP/1 cares for the case no more than the fields themselves do."""
    yield from dict.fromkeys([*written(name), *underscored(name), *with_signs(name)])
