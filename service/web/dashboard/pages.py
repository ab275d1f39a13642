"""Rendering the dashboard's pages, and the headers that keep them to themselves."""

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

ROOT = "/dashboard"
API = f"{ROOT}/api"
"""The admin API once more, for the dashboard's own pages: by cookie instead of bearer token."""

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
    Cause.EXPIRY: "the time of the token was over",
}


def visible(text: str) -> str:
    """A user's name with what cannot be seen, or turns the line around, made visible."""
    inner = text.strip(" ")
    edge = len(text) - len(text.lstrip(" "))
    shown = "".join(f"[U+{ord(c):04X}]" if _is_unseen(c) else c for c in inner)
    return "␣" * edge + shown + "␣" * (len(text) - len(inner) - edge)


def _is_unseen(character: str) -> bool:
    return character != " " and unicodedata.category(character) in ("Cf", "Zs", "Zl", "Zp")


def is_page(request: web.Request) -> bool:
    """Whether the answer is for somebody's eyes."""
    path = request.path
    return path == ROOT or (path.startswith(f"{ROOT}/") and not path.startswith(f"{API}/"))


def render(request: web.Request, template: str, content: dict[str, Any], *, status: int = 200) -> web.Response:
    """A page under the strict Content-Security-Policy."""
    helpers = {"labels": LABELS, "causes": CAUSES, "visible": visible, "timestamp": timestamp, "root": ROOT}
    response = aiohttp_jinja2.render_template(template, request, {**helpers, **content}, status=status)
    response.headers.update(_HEADERS)
    return response


def files_of(folder: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The files of a folder, as they are named at the start; no other name is ever looked for."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    async def file(request: web.Request) -> web.StreamResponse:
        path = found.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path)

    return file


def problem_page(request: web.Request, problem: Problem) -> web.Response:
    """An error, told to a person."""
    content = {
        "problem": problem,
        "request_id": request[app_keys.REQUEST_CONTEXT].request_id,
        "advice": _ADVICE.get(problem.code, ""),
    }
    return render(request, "problem.html", content, status=problem.status)


_ADVICE = {
    "NOT_FOUND": "It may be mistyped, of a tenant that is not yours, never seen, or no longer kept.",
    "FORBIDDEN": "The form was not sent from this dashboard, or it is too old. Go back, reload the page and try again.",
    "TOO_MANY_REQUESTS": "Too many attempts came from your address. Wait a minute and try again.",
    "SERVICE_UNAVAILABLE": "Redis does not answer. The page works again within a second of its return.",
    "BAD_REQUEST": "Something in the address is not what this page understands. Start again from the overview.",
}
