"""The answer at `/`: the dashboard for browsers, a list of links for programs."""

import re

from aiohttp import hdrs, web

from service.web.api.envelope import success
from service.web.dashboard.pages import ROOT, public

LINKS = {
    "dashboard": ROOT,
    "documentation": "/docs",
    "description": "/openapi.json",
    "admin": "/admin/v1",
    "health": "/healthz",
    "readiness": "/readyz",
    "metrics": "/metrics",
}
"""Name → path."""


async def start_page(request: web.Request) -> web.StreamResponse:
    """Redirect a browser to the dashboard; answer anything else with the links."""
    if accepts_html(request):
        raise web.HTTPSeeOther(public(request, ROOT))
    return success(request, {"links": LINKS})


def accepts_html(request: web.Request) -> bool:
    """Return whether the client names HTML among the types that it accepts (RFC 9110, section 12.5.1).

    `*/*` alone does not count: programs send it, or nothing.
    """
    for part in ",".join(request.headers.getall(hdrs.ACCEPT, ())).split(","):
        kind, *parameters = (one.strip().lower() for one in part.split(";"))
        if kind in ("text/html", "application/xhtml+xml"):
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False
