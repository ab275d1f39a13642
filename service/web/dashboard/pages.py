"""Rendering of the dashboard's pages, and their security headers."""

import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp_jinja2
from aiohttp import web

from service.core.sessions import Cause, Status
from service.core.text.timestamps import timestamp
from service.web import app_keys
from service.web.api.error_responses import Problem
from service.web.server.request_head import AnyRequest

ROOT = "/dashboard"
API = f"{ROOT}/api"
"""The path of the admin API for the dashboard's own pages, which authenticate by cookie."""


def local_path(request: AnyRequest) -> str:
    """Return the path of a request without `server.base_path`, which a proxy may have removed or not."""
    if not isinstance(request, web.Request):
        return request.path  # what the hot path answers is never under it
    base = request.app.get(app_keys.BASE_PATH, "")
    return request.path[len(base) :] if base and request.path.startswith(f"{base}/") else request.path


def public(request: web.Request, path: str) -> str:
    """Return a path of this service as a browser has to ask for it: under `server.base_path`."""
    base = request.app.get(app_keys.BASE_PATH, "")
    return path if base and path.startswith(f"{base}/") else f"{base}{path}"


_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

LABELS = {
    Status.LOGGED_IN: "Logged in",
    Status.LOGGED_OUT: "Logged out",
    Status.EXPIRED: "Expired",
    Status.SUSPENDED: "Suspended",
    Status.TERMINATED: "Terminated",
    Status.NONE: "None",
}

CAUSES = {
    Cause.REQUEST: "a request with a valid token",
    Cause.LOGOUT: "the user logged out",
    Cause.OPERATOR_LOGOUT: "logged out",
    Cause.SUSPEND: "suspended",
    Cause.REINSTATE: "reinstated",
    Cause.TERMINATE: "terminated",
    Cause.EXPIRY: "the token expired",
}


def visible(text: str) -> str:
    """Return a user's name with invisible characters, and those that reverse the text, written as code points."""
    inner = text.strip(" ")
    edge = len(text) - len(text.lstrip(" "))
    shown = "".join(f"[U+{ord(c):04X}]" if _is_unseen(c) else c for c in inner)
    return "␣" * edge + shown + "␣" * (len(text) - len(inner) - edge)


def _is_unseen(character: str) -> bool:
    return character != " " and unicodedata.category(character) in ("Cf", "Zs", "Zl", "Zp")


def is_page(request: web.Request) -> bool:
    """Return whether the answer is a page for a person."""
    path = local_path(request)
    return path == ROOT or (path.startswith(f"{ROOT}/") and not path.startswith(f"{API}/"))


def render(request: web.Request, template: str, content: dict[str, Any], *, status: int = 200) -> web.Response:
    """Return a page with the strict Content-Security-Policy."""
    helpers = {"labels": LABELS, "causes": CAUSES, "visible": visible, "timestamp": timestamp}
    helpers["root"] = public(request, ROOT)
    response = aiohttp_jinja2.render_template(template, request, {**helpers, **content}, status=status)
    response.headers.update(_HEADERS)
    return response


def files_of(folder: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler for the files that the folder holds now. It opens no other file."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    async def file(request: web.Request) -> web.StreamResponse:
        path = found.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path)

    return file


def problem_page(request: web.Request, problem: Problem) -> web.Response:
    """Return an error as a page."""
    content = {
        "problem": problem,
        "request_id": request[app_keys.REQUEST_CONTEXT].request_id,
        "advice": _ADVICE.get(problem.code, ""),
    }
    return render(request, "problem.html", content, status=problem.status)


_ADVICE = {
    "NOT_FOUND": "The name may be mistyped or forgotten, or belong to a tenant that is not yours.",
    "FORBIDDEN": "The form is too old, or another site sent it. Go back, reload the page and try again.",
    "TOO_MANY_REQUESTS": "Too many attempts came from your address. Wait a minute and try again.",
    "SERVICE_UNAVAILABLE": "Redis does not answer. The page works again within a second after Redis is back.",
    "BAD_REQUEST": "The address has a parameter that this page cannot read. Start again from the overview.",
}
