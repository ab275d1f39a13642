"""The API's description: for programs at /openapi.json, and for people at /docs (Swagger UI from its package)."""

import json
from functools import cache

import aiohttp_jinja2
from aiohttp import web

from service import __version__
from service.web.dashboard.pages import public
from service.web.openapi.description import document

ROOT = "/docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger UI needs inline styles."""


async def described(_: web.Request) -> web.Response:
    """Return the OpenAPI document."""
    return web.Response(body=_text(), content_type="application/json", charset="utf-8")


async def reader(request: web.Request) -> web.Response:
    """Show the description, with forms to send requests."""
    response = aiohttp_jinja2.render_template("docs.html", request, {"base": public(request, "")})
    response.headers["content-security-policy"] = _POLICY
    return response


@cache
def _text() -> bytes:
    return f"{json.dumps(document(__version__))}\n".encode()
