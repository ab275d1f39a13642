"""CORS for `/auth/*` (the Fetch standard): the configured origins, and no others, may call from a browser."""

from aiohttp import hdrs, web

from service.web import app_keys
from service.web.server.responses import line

_ALLOWED = "authorization, content-type, x-passive, x-request-id, x-tenant-token, x-token"
_EXPOSED = (
    "ratelimit, ratelimit-policy, retry-after, x-degraded, x-ratelimit-limit, x-ratelimit-remaining, "
    "x-ratelimit-reset, x-request-id"
)
_PREFLIGHT_MAX_AGE_S = 600


def cors_lines(request: web.Request, origins: frozenset[str]) -> str:
    """Return the header lines for a browser, if the request names one of `origins`. For answers under `/auth/`."""
    lines = ""
    given = request.headers.getall(hdrs.ORIGIN, ())
    if len(given) == 1 and given[0].isascii() and (given[0] in origins or "*" in origins):
        lines += line("Access-Control-Allow-Origin", given[0])
        lines += line("Access-Control-Expose-Headers", _EXPOSED)
    return lines


async def preflight(request: web.Request) -> web.Response:
    """Answer whether a browser may send the request it is about to (OPTIONS); 405 where CORS is not configured."""
    allowed = ", ".join(sorted({route.method for route in _resource(request)} - {hdrs.METH_OPTIONS}))
    if not request.app[app_keys.REQUEST_SERVICES].policy.current.cors_origins:
        raise web.HTTPMethodNotAllowed(request.method, allowed.split(", "))
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: allowed,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _ALLOWED,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_MAX_AGE_S),
        },
    )


def _resource(request: web.Request) -> list[web.AbstractRoute]:
    resource = request.match_info.route.resource
    return [] if resource is None else list(resource)
