"""The dashboard: log in, look at counts and sessions, look at one user."""

from collections.abc import Awaitable, Callable
from functools import wraps
from urllib.parse import urlencode

from aiohttp import web

from service.core.errors import NotFound, StoreUnavailable
from service.core.listing import Cursor, Page
from service.core.sessions import RECORDED, Status
from service.core.tokens import MAX_USER_CHARS
from service.web import keys
from service.web.browser import Browser, browser_of, forget, read_form, remember
from service.web.operators import admit_anyone, find_operator
from service.web.pages import ROOT, render, visible
from service.web.policy import Operator

PAGE_SIZE = 50
HISTORY_SIZE = 20

View = Callable[[web.Request, Browser, Operator], Awaitable[web.StreamResponse]]


def signed_in(view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Show `view` to an operator; send anyone else to the login, and back afterwards."""

    @wraps(view)
    async def guarded(request: web.Request) -> web.StreamResponse:
        browser = browser_of(request)
        if browser is None or browser.operator is None:
            raise web.HTTPSeeOther(f"{ROOT}/login?{urlencode({'next': request.path_qs})}")
        if request.app[keys.GATE].is_down():
            raise StoreUnavailable("the circuit breaker is open")
        return await view(request, browser, browser.operator)

    return guarded


async def login_form(request: web.Request) -> web.StreamResponse:
    """The form that asks for an operator's token."""
    browser = browser_of(request)
    if browser is not None and browser.operator is not None:
        raise web.HTTPSeeOther(_own_page(request.query.get("next", "")))
    return _show_login(request, request.query.get("next", ""), wrong=False)


async def login(request: web.Request) -> web.StreamResponse:
    """Take an operator's token, and remember who it was in the cookie."""
    await admit_anyone(request, "login")
    form = await read_form(request)
    operator = find_operator(request, form.get("token", "").strip())
    if operator is None:
        return _show_login(request, form.get("next", ""), wrong=True)
    response = web.Response(status=303, headers={"location": _own_page(form.get("next", ""))})
    remember(request, response, operator)
    return response


async def logout(request: web.Request) -> web.StreamResponse:
    """Forget the operator."""
    await read_form(request)
    response = web.Response(status=303, headers={"location": f"{ROOT}/login"})
    forget(response)
    return response


@signed_in
async def overview(request: web.Request, browser: Browser, operator: Operator) -> web.StreamResponse:
    """Counts per status of each tenant, and the sessions of one, by last seen."""
    tenants = _tenants_of(request, operator)
    tenant = request.query.get("tenant") or next(iter(tenants), "")
    if tenants and tenant not in tenants:
        raise NotFound
    status = _status_of(request)
    user = request.query.get("user", "").strip()
    sessions = request.app[keys.SESSIONS]
    counts = await sessions.counts(tenants) if tenants else {}
    exact = bool(user) and "exact" in request.query
    if not tenants:
        page = Page((), None)
    elif exact:
        found = await sessions.get(tenant, user)
        page = Page((found,) if found and status in (None, found.status) else (), None)
    else:
        page = await sessions.page(
            tenant,
            statuses=RECORDED if status is None else [status],
            prefix=user,
            after=_cursor_of(request),
            size=PAGE_SIZE,
        )
    filters = {"tenant": tenant, "status": status or "", "user": user} | ({"exact": "1"} if exact else {})
    filters = {name: value for name, value in filters.items() if value}
    older = f"{ROOT}?{urlencode({**filters, 'after': str(page.after)})}" if page.after else ""
    content = {
        "browser": browser,
        "operator": operator,
        "tenants": tenants,
        "tenant": tenant,
        "counts": counts,
        "total": sum(counts[tenant].values()) if tenant in counts else 0,
        "statuses": RECORDED,
        "status": status,
        "user": user,
        "exact": exact,
        "page": page,
        "newest": f"{ROOT}?{urlencode(filters)}" if "after" in request.query else "",
        "older": older,
        "origin": _origin_of(request),
        "urlencode": urlencode,
    }
    return render(request, "overview.html", content)


@signed_in
async def user(request: web.Request, browser: Browser, operator: Operator) -> web.StreamResponse:
    """One user: where it stands, and what happened lately."""
    tenant, name = request.query.get("tenant", ""), request.query.get("user", "")
    if tenant not in _tenants_of(request, operator) or not 1 <= len(name) <= MAX_USER_CHARS:
        raise NotFound
    session = await request.app[keys.SESSIONS].get(tenant, name)
    history = await request.app[keys.HISTORIES].history(tenant, name, most=HISTORY_SIZE)
    if session is None and not history.events:
        raise NotFound(f"Nothing is kept of {visible(name)} in {tenant}")
    content = {
        "browser": browser,
        "operator": operator,
        "tenant": tenant,
        "user": name,
        "session": session,
        "history": history,
        "most": HISTORY_SIZE,
        "urlencode": urlencode,
    }
    return render(request, "user.html", content)


def _show_login(request: web.Request, next_page: str, *, wrong: bool) -> web.StreamResponse:
    response = web.Response()
    form_token = remember(request, response, None)
    content = {"form_token": form_token, "wrong": wrong, "next": next_page}
    shown = render(request, "login.html", content, status=401 if wrong else 200)
    shown.cookies.update(response.cookies)
    return shown


def _own_page(wanted: str) -> str:
    """Where to go after the login: a page of the dashboard, never another place."""
    inside = wanted == ROOT or wanted.startswith((f"{ROOT}?", f"{ROOT}/"))
    return wanted if inside and wanted.isprintable() and "\\" not in wanted else ROOT


def _tenants_of(request: web.Request, operator: Operator) -> list[str]:
    tenants = request.app[keys.GATE].policy.current.directory.tenants
    return sorted(name for name in tenants if operator.sees(name))


def _status_of(request: web.Request) -> Status | None:
    wanted = request.query.get("status", "")
    if not wanted:
        return None
    if wanted not in RECORDED:
        raise web.HTTPBadRequest
    return Status(wanted)


def _origin_of(request: web.Request) -> str:
    """What the reader's browser calls this service, to show it in a curl line."""
    try:
        return str(request.url.origin())
    except ValueError:  # a Host header that is none
        return "http://127.0.0.1:8080"


def _cursor_of(request: web.Request) -> Cursor | None:
    try:
        return Cursor.parse(request.query["after"]) if "after" in request.query else None
    except ValueError:
        raise web.HTTPBadRequest from None
