"""CORS for `/auth/*` (the Fetch standard): the configured origins, and no others, may call from a browser."""

import re
from collections.abc import Iterator, Sequence

import structlog
from aiohttp import hdrs, web

from service.web import app_keys
from service.web.monitoring.redaction import is_token
from service.web.policy import Policy
from service.web.server.request_head import AnyRequest
from service.web.server.responses import line

log = structlog.get_logger()

_EXPOSED = (
    "ratelimit, ratelimit-policy, retry-after, x-degraded, x-ratelimit-limit, x-ratelimit-remaining, "
    "x-ratelimit-reset, x-request-id"
)
_PREFLIGHT_MAX_AGE_S = 600
MOST_ECHOED_FIELDS, MOST_ECHOED_CHARS = 64, 1024
"""The most names that are echoed if `server.cors_headers` is `*`, so that an answer stays short."""
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}")


def cors_lines(request: AnyRequest, origins: frozenset[str]) -> str:
    """Return the header lines for a browser, if the request names one of `origins`. For answers under `/auth/`.

    Only an origin that is listed by name may send cookies and the like: `*` is for pages that nobody knows.
    """
    given: Sequence[str] = request.headers.getall(hdrs.ORIGIN, ())
    if not _is_allowed(given, origins):
        return ""
    origin = given[0]
    lines = line("Access-Control-Allow-Origin", origin)
    if origin in origins:
        lines += line("Access-Control-Allow-Credentials", "true")
    return lines + line("Access-Control-Expose-Headers", _EXPOSED)


def allowed_methods(path: str, error: web.HTTPMethodNotAllowed, policy: Policy) -> set[str]:
    """Return the methods that a path answers. Under `/auth/`, OPTIONS is the preflight alone, and 405 without CORS."""
    methods = error.allowed_methods
    return methods - {hdrs.METH_OPTIONS} if path.startswith("/auth/") and not policy.cors_origins else methods


async def preflight(request: web.Request) -> web.Response:
    """Answer a preflight: whether the browser may send the request. 405 if CORS is not configured."""
    methods = sorted({route.method for route in _resource(request)} - {hdrs.METH_OPTIONS})
    services = request.app[app_keys.REQUEST_SERVICES]
    policy = services.policy.current
    asked = _fields(request)
    allowed = _allowed_fields(asked, policy.cors_headers)
    for reason, value in _refusals(request, policy, methods, asked, allowed):
        services.metrics.count_refused_preflight(reason)
        if services.log_throttle.is_first("preflight", reason, value):
            shown = "[token]" if is_token(value, policy) else value
            log.warning("a preflight is refused", path=request.path, **{reason: shown}, setting=_SETTINGS[reason])
    if not policy.cors_origins:
        raise web.HTTPMethodNotAllowed(request.method, methods)
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(methods),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(allowed),
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_MAX_AGE_S),
        },
    )


_SETTINGS = {"origin": "server.cors_origins", "field": "server.cors_headers", "method": None}
"""What a preflight can be refused → the setting that allows it."""


def _refusals(
    request: web.Request, policy: Policy, methods: Sequence[str], asked: Sequence[str], allowed: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield what a browser will not send after this answer: the kind, and the value. Nothing for other clients."""
    origins = request.headers.getall(hdrs.ORIGIN, ())
    method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
    if not origins or method is None:
        return
    if not _is_allowed(origins, policy.cors_origins):
        yield "origin", _shown(origins[0])
        return  # the rest does not matter
    # A browser sends these three without asking (Fetch, section 4.8): the answer need not name them.
    if method not in (*methods, "GET", "HEAD", "POST"):
        yield "method", _shown(method)
    for name in sorted(set(asked) - set(allowed)):
        yield "field", _shown(name)


def _is_allowed(given: Sequence[str], origins: frozenset[str]) -> bool:
    return len(given) == 1 and given[0].isascii() and (given[0] in origins or "*" in origins)


def _fields(request: web.Request) -> list[str]:
    """The names that the browser asks for, in lower case as it writes them; what is no name is left out."""
    text = ",".join(request.headers.getall(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ()))
    names = (name.strip().lower() for name in text.split(","))
    return list(dict.fromkeys(name for name in names if _FIELD_NAME.fullmatch(name)))


def _allowed_fields(asked: list[str], configured: tuple[str, ...]) -> list[str]:
    """The names that a browser may send: those that are configured, and with `*` those that it asks for, bounded."""
    names = [name for name in configured if name != "*"]
    if "*" not in configured:
        return names
    names = list(dict.fromkeys([*names, *asked]))[:MOST_ECHOED_FIELDS]
    while len(", ".join(names)) > MOST_ECHOED_CHARS:
        names.pop()
    return names


def _shown(value: str) -> str:
    return value.encode("ascii", "backslashreplace").decode()[:128]


def _resource(request: web.Request) -> list[web.AbstractRoute]:
    resource = request.match_info.route.resource
    return [] if resource is None else list(resource)
