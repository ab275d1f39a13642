"""The two middlewares: `problems` turns errors into answers, `authentication` admits requests.

The steps of an admission are methods, so that the hot path calls the same ones. An admission is also what sets a status
back to `logged_in` when a valid token is used again.
"""

import time
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

import structlog
from aiohttp import web
from multidict import MultiMapping

from service.core.admission import Admission, Failure, Question, Terms, judge
from service.core.errors import (
    DomainError,
    Forbidden,
    InvalidRequest,
    InvalidTenantToken,
    InvalidUserToken,
    KeysUnavailable,
    StoreUnavailable,
    Unauthenticated,
    UnknownKey,
    UnreadableRequest,
)
from service.core.sessions import Cause
from service.core.tenants import Directory, Tenant
from service.web import app_keys
from service.web.admin import not_found
from service.web.api import forward_auth, vary
from service.web.api.client_address import client_address
from service.web.api.cors import allowed_methods, cors_lines
from service.web.api.credentials import NONE, is_passive, is_prefetch, repeated_fields, tenant_token, user_token
from service.web.api.envelope import failure, request_id_of
from service.web.api.error_responses import Problem, problem_of
from service.web.api.rate_limit_headers import UNAVAILABLE_RETRY_S, limit_lines
from service.web.dashboard.pages import is_page, local_path, problem_page
from service.web.monitoring.redaction import redacted
from service.web.server.request_head import AnyRequest
from service.web.server.responses import AnyResponse, ApiResponse, complete, line

log = structlog.get_logger()

Handler = app_keys.AsyncHandler

FOR_PROGRAMS = frozenset({"logout", "status", "terminate", "verify"})
"""Operations whose answers are never pages."""
MOST_OF_A_PATH = 200
"""The most characters of a proxied request's path that the log has."""


class Middlewares:
    """The two middlewares."""

    def __init__(self, services: app_keys.RequestServices) -> None:
        self._services = services

    @property
    def services(self) -> app_keys.RequestServices:
        """The rest of the service, as the steps use it."""
        return self._services

    def around(self, operation: app_keys.Operation, answer: app_keys.Responder) -> Handler:
        """Return a handler of `operation` with both middlewares around it, as aiohttp would call it."""

        async def admitted(request: web.Request) -> web.StreamResponse:
            await self.admit(request, operation)
            return answer(request, request[app_keys.REQUEST_CONTEXT]).to_aiohttp()

        return lambda request: self.problems(request, admitted)

    @web.middleware
    async def problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add request id and headers to every answer, turn every error into an envelope, and write the log."""
        context = request[app_keys.REQUEST_CONTEXT] = self.begin(request)
        try:
            response = await handler(request)
        except web.HTTPRedirection as redirection:
            response = web.Response(status=redirection.status, headers={"location": redirection.headers["location"]})
        except Exception as error:  # the last resort: every error gets an envelope
            if context.operation not in FOR_PROGRAMS and is_page(request):
                return self._refuse_page(request, context, error)
            return self.refuse(request, context, error).to_aiohttp()
        self.finish(request, context, response)
        return response

    def begin(self, request: AnyRequest) -> app_keys.RequestContext:
        """Return a new context for `request`."""
        return app_keys.RequestContext(self._services, request_id_of(request, self._services.policy.current))

    def refuse(self, request: AnyRequest, context: app_keys.RequestContext, error: Exception) -> ApiResponse:
        """Return the answer to an error, and log it."""
        refusal = _refusal_of(request, context, error)
        problem = refusal.problem
        mistakes, policy = error.validation if isinstance(error, InvalidRequest) else (), self._services.policy.current
        validation = [(redacted(field, policy), what) for field, what in mistakes]
        response = failure(context, problem.code, problem.status, problem.message, validation)
        response.closes = refusal.closes
        self.finish(request, context, response, error, refusal)
        forward_auth.translate(request, response)
        return response

    def _refuse_page(
        self, request: web.Request, context: app_keys.RequestContext, error: Exception
    ) -> web.StreamResponse:
        refusal = _refusal_of(request, context, error)
        response = problem_page(request, refusal.problem)
        if refusal.closes:
            response.force_close()
        self.finish(request, context, response, error, refusal)
        return response

    def finish(
        self,
        request: AnyRequest,
        context: app_keys.RequestContext,
        response: AnyResponse,
        error: Exception | None = None,
        refusal: "_Refusal | None" = None,
    ) -> None:
        """Add the headers that every answer has, count it, and log it."""
        code, lines = (refusal.problem.code, refusal.lines) if refusal is not None else ("", "")
        services, status = self._services, response.status
        admission = context.admission
        if admission is not None:
            lines = limit_lines(admission, status) + lines
        policy = services.policy.current
        reads = context.reads if context.reads is not None else vary.fields_read_at(local_path(request))
        if policy.cors_origins and request.path.startswith("/auth/"):
            lines += cors_lines(request, policy.cors_origins)
            reads += vary.ORIGIN
        vary_line = f"vary: {reads}\r\n" if reads else ""
        lines = f"x-request-id: {context.request_id}\r\n{vary_line}{lines}"
        if isinstance(response, ApiResponse):
            response.lines += lines
        else:
            complete(response, lines)
        try:
            self._observe(request, context, status, code, error)
        except Exception as mistake:  # the answer does not depend on its report
            with suppress(Exception):  # nor on the log
                log.error("a request was not reported", request_id=context.request_id, exc_info=mistake)

    def _observe(
        self, request: AnyRequest, context: app_keys.RequestContext, status: int, code: str, error: Exception | None
    ) -> None:
        """Count the answer, and log it if it is worth a line."""
        services, admission = self._services, context.admission
        services.metrics.count_request(context.operation, status)
        if admission is not None and (code or admission.is_remarkable):
            services.metrics.count_admission(admission)
            if context.tenant is not None:
                context.count_traffic(admission, status, code)
        if (
            status >= 400
            or services.policy.current.access_log == "all"
            or context.changed
            or (admission is not None and admission.came_from)
        ):
            _log(request, context, status, code, error)

    @web.middleware
    async def authentication(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admit the request, or raise why not. Requests that are no operation pass."""
        services = self._services
        operation = services.operations.get(handler)
        if operation is not None:
            await self.admit(request, operation)
        return await handler(request)

    async def admit(self, request: web.Request, operation: app_keys.Operation, capability: str | None = None) -> None:
        """Admit the request, or raise why not.

        Args:
            request: its `REQUEST_CONTEXT` is set.
            operation: the operation of its handler.
            capability: a capability that the request needs besides those of the operation.
        """
        services, context = self._services, request[app_keys.REQUEST_CONTEXT]
        own, mistake = None, None
        if operation.own_terms is not None:
            try:
                asked, _ = self._asked(request.headers, repeated_fields(request.headers), context)
                own = await operation.own_terms(request, asked.terms[operation.name])
            except (InvalidRequest, web.HTTPException) as error:
                mistake = error
        try:
            question = self.question(request, context, operation, capability, own)
        except (UnknownKey, KeysUnavailable) as error:  # wait a moment for the tenant's keys
            await services.refetch_keys(error)
            question = self.question(request, context, operation, capability, own, last=True)
        self.settle(context, question, await services.decide(question), mistake)

    def question(
        self,
        request: AnyRequest,
        context: app_keys.RequestContext,
        operation: app_keys.Operation,
        capability: str | None = None,
        own: Terms | None = None,
        *,
        last: bool = False,
    ) -> Question:
        """Return the question to the admission about `request`.

        Args:
            request: the request.
            context: its context, in which tenant and operation are set.
            operation: the operation of its handler.
            capability: a capability that the request needs besides those of the operation.
            own: the terms of this request alone, if its body decides them.
            last: the tenant's keys are not fetched again.

        Raises:
            UnknownKey, KeysUnavailable: fetching the tenant's keys may help.
            Forbidden: the request is a prefetch, which the operation refuses. No limit is charged.
        """
        context.operation, context.reads = operation.name, operation.reads
        headers = request.headers
        if operation.refuses_prefetch and request.method == "GET" and is_prefetch(headers):
            raise Forbidden
        # Since multidict 7.1 `keys` counts each name once, in whatever case. Here, not in a call: it is the usual case.
        repeated = NONE if len(headers) == len(headers.keys()) else repeated_fields(headers)
        refusal: Failure | None
        asked, refusal = self._asked(headers, repeated, context)
        tenant = context.customer
        terms = own or asked.terms[operation.name]
        unreadable: UnreadableRequest | InvalidRequest | None = None
        passive = False
        try:
            if operation.original is not None:
                if repeated and operation.check is not None:
                    operation.check(repeated)
                if asked.routes is not None:
                    context.original = operation.original(request, self._services.policy.current.client_address)
                    terms = asked.routes.terms(*context.original)
            if terms.cause is Cause.REQUEST and operation.own_terms is None:
                passive = is_passive(headers, repeated) or terms.passive
        except (UnreadableRequest, InvalidRequest) as error:
            refusal = unreadable = error
        identity = None
        if unreadable is None and terms.open and capability is None:
            refusal = None
        elif tenant is not None and refusal is None:
            if capability is not None:
                terms = tenant.terms_with(terms, capability)
            try:
                token = user_token(headers, repeated)
            except Unauthenticated as error:
                refusal = error
            else:
                identity, refusal = self._services.identify(tenant.ring, token, last=last)
        if identity is None:
            terms = terms.anonymous
        return Question(terms, _client(request, context), context.request_id, identity, passive, refusal)

    def _asked(
        self, headers: MultiMapping[str], repeated: AbstractSet[str], context: app_keys.RequestContext
    ) -> tuple[Tenant | Directory, Unauthenticated | None]:
        """Return the tenant. If the token names none, return the directory with the terms for all, and the error."""
        directory = self._services.policy.current.directory
        try:
            tenant = directory.find(tenant_token(headers, repeated))
        except Unauthenticated as error:
            return directory, error
        if tenant is None:
            return directory, InvalidTenantToken()
        context.customer = tenant
        context.tenant = tenant.name
        return tenant, None

    def settle(
        self,
        context: app_keys.RequestContext,
        question: Question,
        admission: Admission,
        mistake: Exception | None = None,
    ) -> None:
        """Store the decision in the context, or raise why the request is refused; `mistake` comes last."""
        context.admission = admission
        judge(question, admission)
        if mistake is not None:
            raise mistake
        context.identity = question.user


def client_of(request: web.Request) -> str:
    """Return the client's address as limits count it, computed once per request."""
    return _client(request, request[app_keys.REQUEST_CONTEXT])


def _client(request: AnyRequest, context: app_keys.RequestContext) -> str:
    if context.client is None:
        services = context.services
        rules = services.policy.current.client_address
        context.client = client_address(request.remote, request.headers, rules, services.report_address)
    return context.client


class _Refusal(NamedTuple):
    """How an error is answered."""

    problem: Problem
    lines: str
    """Further header lines."""
    closes: bool
    """Whether to close the connection, because the bytes after the request cannot be trusted."""


def _refusal_of(request: AnyRequest, context: app_keys.RequestContext, error: Exception) -> _Refusal:
    problem, lines, closes = problem_of(error), "", False
    if problem.status >= 500 and not isinstance(error, StoreUnavailable | KeysUnavailable):
        log.error("a request failed", request_id=context.request_id, exc_info=error)
    if problem.status == 401:
        lines = 'www-authenticate: Bearer realm="rollcall"\r\n'
    elif problem.status == 503:
        if isinstance(error, StoreUnavailable):
            context.services.count_failure(error)
        retry_s = error.retry_after_s if isinstance(error, KeysUnavailable) else UNAVAILABLE_RETRY_S
        lines = f"Retry-After: {retry_s}\r\n"
    elif not isinstance(error, DomainError):
        if isinstance(error, web.HTTPNotFound) and (hint := not_found.message_for(local_path(request))) is not None:
            problem = problem._replace(message=hint)
        if isinstance(error, web.HTTPMethodNotAllowed):
            methods = allowed_methods(request.path, error, context.services.policy.current)
            lines = line("allow", ", ".join(sorted(methods)))
        closes = isinstance(error, web.HTTPBadRequest)  # the request itself is bad, not the original one of verify
    return _Refusal(problem, lines, closes)


def _again(
    request: AnyRequest, context: app_keys.RequestContext, status: int, code: str, error: Exception | None
) -> str:
    """Return the event under which the log counts this answer; empty: the answer gets a line of its own.

    A line for each of many refusals would cost more than the refusals. A change of a status, and an action of an
    operator, always gets a line.
    """
    admission = context.admission
    if admission is not None and admission.remembered:
        return "refused again"
    if isinstance(error, StoreUnavailable):
        return "answered without redis"
    if not 400 <= status < 500 or context.changed or (admission is not None and admission.came_from):
        return ""
    kind = f"{code} {error.reason}" if isinstance(error, InvalidUserToken) else code
    first = context.services.log_throttle.is_first_refusal(context.operation, kind, _client(request, context))
    return "" if first else "refused again"


def _log(
    request: AnyRequest, context: app_keys.RequestContext, status: int, code: str, error: Exception | None
) -> None:
    """Write a line, unless `server.access_log` is `none`. It never contains tokens or queries."""
    policy = context.services.policy.current
    mode = policy.access_log
    if mode == "none":
        return
    admission = context.admission
    if mode == "refused" and (again := _again(request, context, status, code, error)):
        context.services.log_throttle.count(again, context.operation, _client(request, context), code)
        return
    fields: dict[str, object] = {"request_id": context.request_id, "client": _client(request, context)}
    if context.tenant is not None:
        fields["tenant"] = context.tenant
    if context.operator is not None:
        fields["operator"] = context.operator
    if code:
        fields["code"] = code
    if isinstance(error, InvalidRequest):
        fields["wrong"] = ", ".join(redacted(field, policy) for field, _ in error.validation)[:MOST_OF_A_PATH]
    if isinstance(error, UnreadableRequest | InvalidUserToken | KeysUnavailable):
        fields["reason"] = error.reason
    if context.original is not None:
        method, target = context.original
        fields["original"] = redacted(f"{method} {target.partition('?')[0]}", policy)[:MOST_OF_A_PATH]
    if admission is not None and admission.session is not None:
        fields["user"] = admission.session.user
        if admission.came_from is not None:
            fields["transition"] = f"{admission.came_from} -> {admission.session.status}"
    took_ms = round((time.perf_counter() - context.began) * 1000, 2)
    log.info(
        "answered", method=request.method, path=redacted(request.path, policy), status=status, ms=took_ms, **fields
    )
