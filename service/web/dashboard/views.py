"""Views of the dashboard: login, the overview of a tenant, one user, restrictions and limits."""

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any
from urllib.parse import unquote, urlencode

from aiohttp import web

from service.core.errors import Forbidden, NotFound, StoreUnavailable
from service.core.limits import Per
from service.core.operator_actions import Rules
from service.core.session_lists import EVENT_TYPES, Cursor, Page, WalkCursor, parse_cursor
from service.core.sessions import RECORDED, Status
from service.core.tokens.claims import is_user_id
from service.core.webhooks import WebhookState
from service.web import app_keys
from service.web.admin.authorization import admit_anyone, find_operator
from service.web.api.client_address import is_counted
from service.web.dashboard.charts import charts_of
from service.web.dashboard.login import Browser, browser_of, forget, is_own_page, read_form, remember
from service.web.dashboard.pages import API, ROOT, public, render, visible
from service.web.policy import Operator

PAGE_SIZE = 50
HISTORY_SIZE = 20
_EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,19}")

View = Callable[[web.Request, Browser, Operator], Awaitable[web.StreamResponse]]


def signed_in(view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Show `view` to an operator who is signed in; redirect anyone else to the login, and back afterwards."""

    @wraps(view)
    async def guarded(request: web.Request) -> web.StreamResponse:
        browser = browser_of(request)
        if browser is None or browser.operator is None:
            here = public(request, request.path_qs)
            raise web.HTTPSeeOther(f"{public(request, ROOT)}/login?{urlencode({'next': here})}")
        request.app[app_keys.REQUEST_SERVICES].need_store()
        return await view(request, browser, browser.operator)

    return guarded


async def login_form(request: web.Request) -> web.StreamResponse:
    """Show the login form."""
    browser = browser_of(request)
    if browser is not None and browser.operator is not None:
        raise web.HTTPSeeOther(_own_page(request, request.query.get("next", "")))
    return _show_login(request, request.query.get("next", ""), wrong=False)


async def login(request: web.Request) -> web.StreamResponse:
    """Check an operator's token, and set the cookie."""
    await admit_anyone(request, "login")
    try:
        form = await read_form(request)
    except Forbidden:
        browser = browser_of(request)
        if browser is None or browser.operator is None or not is_own_page(request):
            raise
        raise web.HTTPSeeOther(public(request, ROOT)) from None  # another tab of this browser has logged in meanwhile
    operator = find_operator(request, form.get("token", "").strip())
    if operator is None:
        return _show_login(request, form.get("next", ""), wrong=True)
    response = web.Response(status=303, headers={"location": _own_page(request, form.get("next", ""))})
    remember(request, response, operator)
    return response


async def logout(request: web.Request) -> web.StreamResponse:
    """Forget the operator, and end the event streams of this browser."""
    login_page = f"{public(request, ROOT)}/login"
    await read_form(request)
    if (browser := browser_of(request)) is not None:
        with suppress(StoreUnavailable):  # the other workers note it when Redis is back
            await request.app[app_keys.EVENT_FEEDS].end_session(browser.session)
    response = web.Response(status=303, headers={"location": login_page})
    forget(request, response)
    return response


@signed_in
async def overview(request: web.Request, browser: Browser, operator: Operator) -> web.StreamResponse:
    """Show the users by status, and the sessions of one tenant by last seen."""
    tenants = _tenants_of(request, operator)
    tenant = request.query.get("tenant") or next(iter(tenants), "")
    if tenants and tenant not in tenants:
        raise NotFound
    status = _status_of(request)
    user = request.query.get("user", "")
    sessions = request.app[app_keys.SESSIONS]
    counts = await sessions.counts(tenants) if tenants else {}
    exact = bool(user) and "exact" in request.query
    if not tenants:
        page = Page((), None)
    elif exact:
        found = await sessions.get(tenant, user) or await sessions.get(tenant, user.strip())
        page = Page((found,) if found and status in (None, found.status) else (), None)
    else:
        page = await _search(request, tenant, status, user)
    filters = {"tenant": tenant, "status": status or "", "user": user} | ({"exact": "1"} if exact else {})
    filters = {name: value for name, value in filters.items() if value}
    root = public(request, ROOT)
    older = f"{root}?{urlencode({**filters, 'after': str(page.after)})}" if page.after else ""
    content = {
        **_about(request, browser, operator, tenant),
        "tenants": tenants,
        "counts": counts,
        "total": sum(counts[tenant].values()) if tenant in counts else 0,
        "statuses": RECORDED,
        "status": status,
        "user": user,
        "exact": exact,
        "page": page,
        "newest": f"{root}?{urlencode(filters)}" if "after" in request.query else "",
        "older": older,
        "origin": _origin_of(request),
    }
    if tenant:
        activity = await request.app[app_keys.TRAFFIC_STATISTICS].activity(tenant)
        happened = await request.app[app_keys.HISTORIES].latest(tenant, most=HISTORY_SIZE)
        content |= {
            "charts": charts_of(activity),
            "addresses": activity.addresses[:5],
            "shadow_limits": activity.shadow_limits,
            "events": happened,
        }
    return render(request, "overview.html", content)


async def _search(request: web.Request, tenant: str, status: Status | None, prefix: str) -> Page:
    """Return the newest sessions, or for a prefix a page of a walk: its cost does not depend on the number of users.

    A prefix is searched with its blanks, and where this page has none such, without.
    """
    sessions, after = request.app[app_keys.SESSIONS], _cursor_of(request)
    statuses, page = RECORDED if status is None else [status], Page((), None)
    if not prefix and not isinstance(after, WalkCursor):
        return await sessions.page(tenant, statuses=statuses, after=after, size=PAGE_SIZE)
    if not prefix or isinstance(after, Cursor):
        raise web.HTTPBadRequest
    for wanted in dict.fromkeys((prefix, prefix.strip())):
        page = await sessions.walk_page(tenant, statuses=statuses, prefix=wanted, after=after, size=PAGE_SIZE)
        if page.sessions:
            break
    return page


@signed_in
async def user(request: web.Request, browser: Browser, operator: Operator) -> web.StreamResponse:
    """Show one user: status, restrictions and recent events."""
    tenant, name = _tenant_of(request, operator), request.query.get("user", "")
    if not is_user_id(name):
        raise NotFound
    session = await request.app[app_keys.SESSIONS].get(tenant, name)
    begin = _begin_of(request)
    history = await request.app[app_keys.HISTORIES].history(tenant, name, most=HISTORY_SIZE, begin=begin)
    rules = await request.app[app_keys.OPERATOR_ACTIONS].rules(tenant, name)
    nothing = not history.events and history.following is None and not begin
    if session is None and nothing and rules == Rules() and "unseen" not in request.query:
        raise NotFound(f"Nothing is recorded of {visible(name)} in {tenant}")
    page, at = f"{public(request, ROOT)}/user", {"tenant": tenant, "user": name}
    content = {
        **_about(request, browser, operator, tenant),
        "user": name,
        "session": session,
        "history": history,
        "newest": f"{page}?{urlencode(at)}" if begin else "",
        "older": f"{page}?{urlencode({**at, 'events': history.following})}" if history.following else "",
        "rules": rules,
        "at_user": f"/tenants/{tenant}/user",
        "whose": f"?{urlencode({'user': name})}",
        "about": json.dumps({"users": [name]}),
        "everywhere": json.dumps({"users": [name], "everywhere": True}),
    }
    return render(request, "user.html", content)


@signed_in
async def rules(request: web.Request, browser: Browser, operator: Operator) -> web.StreamResponse:
    """Show what applies to all users of a tenant: restrictions, revocation, limits."""
    tenant = _tenant_of(request, operator)
    actions, subject = request.app[app_keys.OPERATOR_ACTIONS], request.query.get("subject", "")
    if is_counted(subject.strip()):
        subject = subject.strip()  # an address has no blanks; a user's name may
    known = request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants[tenant]
    limits = list(known.limits.values())
    asked = Per.IP if is_counted(subject) else Per.USER
    subjects = {Per.TENANT: "-", asked: subject} if is_user_id(subject) else {}
    charges = [(limit, subjects[limit.per]) for limit in limits if limit.per in subjects]
    content = {
        **_about(request, browser, operator, tenant),
        "rules": await actions.rules(tenant),
        "configured": sorted(known.restricted),
        "limits": limits,
        "webhooks": [await _webhook(request, tenant, name) for name in known.webhooks],
        "subject": subject,
        "limit_states": await actions.peek(tenant, charges) if charges else [],
    }
    return render(request, "rules.html", content)


async def _webhook(request: web.Request, tenant: str, name: str) -> tuple[str, WebhookState, str]:
    """Return a webhook's name, its state, and the body of the request that skips the message which waits, if any."""
    state = await request.app[app_keys.WEBHOOK_STATES].state(tenant, name)
    skip = json.dumps({"id": state.waiting.message_id}) if state.waiting is not None else ""
    return name, state, skip


def _about(request: web.Request, browser: Browser, operator: Operator, tenant: str) -> dict[str, Any]:
    """Return the content that every page has."""
    at = f"/tenants/{tenant}"
    known = request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants.get(tenant)
    return {
        "capabilities": sorted(known.capabilities) if known is not None else [],
        "browser": browser,
        "operator": operator,
        "tenant": tenant,
        "api": public(request, API),
        "at": at,
        "kinds": " ".join(EVENT_TYPES),
        "urlencode": urlencode,
    }


def _show_login(request: web.Request, next_page: str, *, wrong: bool) -> web.StreamResponse:
    response = web.Response()
    browser = browser_of(request)
    # The form token of this browser, if it has one: the login page of another tab must stay valid.
    form_token = browser.form_token if browser is not None else remember(request, response, None)
    content = {"form_token": form_token, "wrong": wrong, "next": next_page}
    shown = render(request, "login.html", content, status=401 if wrong else 200)
    shown.cookies.update(response.cookies)
    return shown


def _own_page(request: web.Request, wanted: str) -> str:
    """Return the page to show after the login; the overview if `wanted` is not a page of the dashboard."""
    root = public(request, ROOT)
    inside = wanted == root or wanted.startswith((f"{root}?", f"{root}/"))
    dots = {".", ".."} & set(unquote(wanted.partition("?")[0]).split("/"))
    return wanted if inside and not dots and wanted.isprintable() and "\\" not in wanted else root


def _tenant_of(request: web.Request, operator: Operator) -> str:
    tenant = request.query.get("tenant", "")
    if tenant not in _tenants_of(request, operator):
        raise NotFound
    return tenant


def _tenants_of(request: web.Request, operator: Operator) -> list[str]:
    tenants = request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants
    return sorted(name for name in tenants if operator.sees(name))


def _status_of(request: web.Request) -> Status | None:
    wanted = request.query.get("status", "")
    if not wanted:
        return None
    if wanted not in RECORDED:
        raise web.HTTPBadRequest
    return Status(wanted)


def _origin_of(request: web.Request) -> str:
    """Return the origin of this service as the browser sees it, for a curl line."""
    try:
        return str(request.url.origin())
    except ValueError:  # the Host header is not a host
        return "http://127.0.0.1:8080"


def _begin_of(request: web.Request) -> str:
    """Return the event with which a page of a user's events begins; '' for the newest."""
    begin = request.query.get("events", "")
    if begin and not _EVENT_ID.fullmatch(begin):
        raise web.HTTPBadRequest
    return begin


def _cursor_of(request: web.Request) -> Cursor | WalkCursor | None:
    try:
        return parse_cursor(request.query["after"]) if "after" in request.query else None
    except ValueError:
        raise web.HTTPBadRequest from None
