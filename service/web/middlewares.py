"""The two middlewares: one maps problems to answers, one authenticates.

The authentication's steps are plain functions, called in the contract's order of judgement. It asks the
one admission, and so is what puts a status back to `logged_in` when a still-valid token is used again.
"""

import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from service.core.admission import Operation, Question, charges, judge
from service.core.errors import (
    InvalidTenantToken,
    InvalidUserToken,
    MissingTenantToken,
    MissingUserToken,
    StoreUnavailable,
    Unauthenticated,
    UnknownKey,
)
from service.core.sessions import Cause
from service.core.tenants import Directory, Tenant
from service.core.tokens import MAX_TOKEN_CHARS, Identity
from service.web import keys
from service.web.envelope import failure, request_id_of
from service.web.forwarded import client_address
from service.web.pages import is_page, problem_page
from service.web.problems import BAD_REQUEST, problem_of
from service.web.ratelimit_headers import UNAVAILABLE_RETRY_S, add_limit_headers

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_HEADER_BYTES = 16 * 1024
"""All header fields together."""
NO_OPERATION = Operation("-")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every answer its request id and headers, every error its envelope, and tell the log."""
    began = time.perf_counter()
    request[keys.REQUEST_ID] = request_id_of(request)
    code = ""
    try:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEADER_BYTES:
            raise web.HTTPBadRequest
        response = await handler(request)
    except web.HTTPRedirection as redirection:
        response = web.Response(status=redirection.status, headers={"location": redirection.headers["location"]})
    except Exception as error:  # the last line: whatever it is gets an envelope
        response, code = _tell(request, error)
    headers = response.headers
    headers["server"] = "rollcall"
    headers["x-request-id"] = request[keys.REQUEST_ID]
    # A static file is the same for everybody, and asked for again only to hear that it has not changed.
    headers.setdefault("cache-control", "no-cache" if isinstance(response, web.FileResponse) else "no-store")
    headers.setdefault("x-content-type-options", "nosniff")
    admission = request.get(keys.ADMISSION)
    if admission is not None:
        add_limit_headers(headers, admission, response.status)
        request.app[keys.METRICS].count_admission(admission)
    operation = request.app[keys.OPERATIONS].get(request.match_info.handler, NO_OPERATION)
    request.app[keys.METRICS].count_request(operation.name, response.status)
    _log(request, response.status, code, time.perf_counter() - began)
    return response


@web.middleware
async def authentication(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Admit the request, or raise what stands in its way. What is no operation passes."""
    operation = request.app[keys.OPERATIONS].get(request.match_info.handler)
    if operation is None:
        return await handler(request)
    policy = request.app[keys.POLICY].current
    tenant: Tenant | None = None
    identity: Identity | None = None
    refusal: Unauthenticated | None = None
    try:
        tenant = find_tenant(request, policy.directory)
        identity = await find_user(request, tenant)
    except Unauthenticated as error:
        refusal = error
    question = make_question(request, operation, policy.directory, tenant, identity, refusal)
    admission = await request.app[keys.GATE].decide(question)
    request[keys.ADMISSION] = admission
    judge(question, admission)
    if tenant is not None and identity is not None:
        request[keys.USER_CONTEXT] = keys.UserContext(tenant, identity, admission)
    return await handler(request)


def find_tenant(request: web.Request, directory: Directory) -> Tenant:
    """The tenant whose token the request brings."""
    token = request.headers.get("x-tenant-token")
    if not token:
        raise MissingTenantToken
    tenant = directory.find(token)
    if tenant is None:
        raise InvalidTenantToken
    return tenant


async def find_user(request: web.Request, tenant: Tenant) -> Identity:
    """The user whose token the request brings; an unknown `kid` waits a moment for the tenant's keys."""
    token = user_token(request)
    if not token:
        raise MissingUserToken
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidUserToken
    verified = request.app[keys.VERIFIED]
    try:
        return verified.verify(tenant.ring, token, time.time())
    except UnknownKey:
        await request.app[keys.GATE].refetch_keys(tenant.name)
        return verified.verify(tenant.ring, token, time.time())


def user_token(request: web.Request) -> str:
    """`x-token`, or in its place `authorization: Bearer …` (RFC 6750, section 2.1); empty where there is none."""
    token = request.headers.get("x-token")
    if token:
        return token
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def make_question(
    request: web.Request,
    operation: Operation,
    directory: Directory,
    tenant: Tenant | None,
    identity: Identity | None,
    refusal: Unauthenticated | None,
) -> Question:
    """Everything that the admission needs to know of the request."""
    client = client_of(request)
    limits = directory.limits if tenant is None else tenant.limits
    restricted = tenant.restricted_capabilities if tenant is not None else frozenset[str]()
    return Question(
        tenant=None if tenant is None else tenant.name,
        operation=operation,
        charges=charges(
            limits.get(operation.name, ()), client=client, user=None if identity is None else identity.user
        ),
        client=client,
        request_id=request[keys.REQUEST_ID],
        user=identity,
        passive=operation.cause is Cause.REQUEST and request.headers.get("x-passive", "").lower() == "true",
        capabilities=(operation.name,),
        restricted=operation.name if operation.name in restricted else None,
        failure=refusal,
    )


def client_of(request: web.Request) -> str:
    """The client's address as limits count it, worked out once per request."""
    client = request.get(keys.CLIENT)
    if client is None:
        rules = request.app[keys.POLICY].current.client_address
        client = request[keys.CLIENT] = client_address(request.remote, request.headers, rules)
    return client


def _tell(request: web.Request, error: Exception) -> tuple[web.StreamResponse, str]:
    """The answer to an error, and its code for the log."""
    problem = problem_of(error)
    if problem.status >= 500 and not isinstance(error, StoreUnavailable):
        log.error("a request failed", request_id=request[keys.REQUEST_ID], exc_info=error)
    if is_page(request):
        response: web.StreamResponse = problem_page(request, problem)
    else:
        response = failure(request, problem.code, problem.status, problem.message)
    if problem.status == 401:
        response.headers["www-authenticate"] = 'Bearer realm="rollcall"'
    if problem.status == 503:
        response.headers["Retry-After"] = str(UNAVAILABLE_RETRY_S)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
    if problem is BAD_REQUEST:
        response.force_close()
    return response, problem.code


def _log(request: web.Request, status: int, code: str, took_s: float) -> None:
    """One line per answer, as much as `server.access_log` asks for. Tokens and queries are never in it."""
    mode = request.app[keys.POLICY].current.access_log
    admission = request.get(keys.ADMISSION)
    moved = admission is not None and admission.came_from is not None
    if mode == "none" or (mode == "refused" and status < 400 and not moved):
        return
    fields: dict[str, object] = {"request_id": request[keys.REQUEST_ID], "client": client_of(request)}
    if code:
        fields["code"] = code
    if admission is not None and admission.session is not None:
        fields["user"] = admission.session.user
        if moved:
            fields["transition"] = f"{admission.came_from} -> {admission.session.status}"
    log.info("answered", method=request.method, path=request.path, status=status, ms=round(took_s * 1000, 2), **fields)
