"""Authorization of the admin API: operators authenticate by bearer token, or by the dashboard's cookie."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Protocol

from aiohttp import hdrs, web

from service.core.admission import Question, judge
from service.core.clocks import forgiven_skew_ms
from service.core.errors import Forbidden, NotFound, Unauthorized, UnexpectedState
from service.core.operator_actions import Author, OperatorActions
from service.core.session_lists import Histories, SessionLists
from service.core.tenants import Tenant, digest
from service.web import app_keys
from service.web.api.authentication import client_of
from service.web.api.credentials import bearer_token
from service.web.dashboard.login import browser_of, is_own_page
from service.web.dashboard.pages import ROOT, local_path
from service.web.policy import Operator

CSRF_HEADER = "x-csrf-token"


@dataclass(frozen=True, slots=True)
class AdminServices:
    """What a view of the admin API works with: the operator, the tenant, and the stores."""

    operator: Operator
    named: Tenant | None
    """The tenant that the path names; None: the path names none."""
    sessions: SessionLists
    actions: OperatorActions
    histories: Histories
    request: web.Request

    @property
    def tenant(self) -> Tenant:
        """The tenant that the path names.

        Raises:
            UnexpectedState: the path names no tenant.
        """
        if self.named is None:
            raise UnexpectedState("Missing tenant")
        return self.named

    @property
    def at(self) -> str:
        """The tenant's name."""
        return self.tenant.name

    @property
    def skew_ms(self) -> int:
        """The clock difference that the tenant tolerates, in milliseconds."""
        return forgiven_skew_ms(self.tenant.ring.leeway_s)

    def author(self, reason: str) -> Author:
        """Return the author of a change, with its reason."""
        return Author(
            self.operator.name, client_of(self.request), self.request[app_keys.REQUEST_CONTEXT].request_id, reason
        )


class View(Protocol):
    """A handler of the admin API."""

    def __call__(self, request: web.Request, admin: AdminServices, /) -> Awaitable[web.StreamResponse]:
        """Answer."""


def for_viewers(view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Admit viewers and operators of the tenant that the path names."""
    return _guarded(view, changes=False)


def for_listeners(view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """`view` for viewers, also while Redis is away: it waits by itself."""
    return _guarded(view, changes=False, needs_store=False)


def for_operators(view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Admit only operators of the tenant, who may change things."""
    return _guarded(view, changes=True)


def _guarded(
    view: View, *, changes: bool, needs_store: bool = True
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    @wraps(view)
    async def guarded(request: web.Request) -> web.StreamResponse:
        await admit_anyone(request, "admin")
        operator = operator_of(request)
        context = request[app_keys.REQUEST_CONTEXT]
        context.operator, context.changed = operator.name, changes
        if changes and not operator.may_change:
            raise Forbidden
        named = request.match_info.get("tenant")
        tenant = None if named is None else tenant_of(request, operator, named)
        if needs_store:
            request.app[app_keys.REQUEST_SERVICES].need_store()
        app = request.app
        admin = AdminServices(
            operator, tenant, app[app_keys.SESSIONS], app[app_keys.OPERATOR_ACTIONS], app[app_keys.HISTORIES], request
        )
        response = await view(request, admin)
        if changes:
            act: str = request.match_info.get("act", "") or getattr(view, "__name__", "other")
            context.services.metrics.count_act(act)
        return response

    return guarded


def tenant_of(request: web.Request, operator: Operator, name: str) -> Tenant:
    """Return the tenant called `name`.

    Raises:
        Forbidden: the operator does not see this tenant.
        NotFound: there is no tenant of that name.
    """
    if not operator.sees(name):
        raise Forbidden
    tenant = request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants.get(name)
    if tenant is None:
        raise NotFound("There is no such tenant")
    return tenant


async def admit_anyone(request: web.Request, operation: str) -> None:
    """Charge the limits of `operation`, before the request is authenticated.

    Raises:
        TooManyRequests: a limit refuses the request.
        StoreUnavailable: Redis is away, and a limit may not be decided without it.
    """
    context = request[app_keys.REQUEST_CONTEXT]
    context.operation = operation
    terms = context.services.policy.current.directory.terms[operation].anonymous
    question = Question(terms, client_of(request), context.request_id)
    context.admission = await context.services.decide(question)
    judge(question, context.admission)


def find_operator(request: web.Request, token: str) -> Operator | None:
    """Return the operator who has this token; None: nobody has it."""
    given, found = digest(token), None
    # Compares with all of them, so that the time does not depend on which one matches.
    for one in request.app[app_keys.REQUEST_SERVICES].policy.current.operators:
        if hmac.compare_digest(one.token_digest, given):
            found = one
    return found


def operator_of(request: web.Request) -> Operator:
    """Return the operator who sends the request: by bearer token, or under `/dashboard/` by cookie.

    Raises:
        Unauthorized: the credentials are missing or wrong.
        Forbidden: the request is a change that no page of the dashboard sent.
    """
    if local_path(request).startswith(f"{ROOT}/"):
        browser = browser_of(request)
        if browser is None or browser.operator is None:
            raise Unauthorized
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            given = request.headers.getall(CSRF_HEADER, ())
            if not is_own_page(request) or len(given) != 1 or not browser.gave(given[0]):
                raise Forbidden
        return browser.operator
    token = bearer_token(request.headers)
    operator = None if token is None else find_operator(request, token)
    if operator is None:
        raise Unauthorized
    return operator
