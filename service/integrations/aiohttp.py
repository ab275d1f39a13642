"""A middleware that admits the requests of an aiohttp application, without a proxy and with the same Redis.

    app = web.Application()
    app.middlewares.append(session_middleware(app, "config.yaml"))

Every request of the application is then judged as `/auth/verify` judges a proxied one: by the limits of `verify`, by
`routes` where they are configured, and by the user's status. `examples/middleware` runs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from service import logs
from service.app import Runtime
from service.config.loading import load
from service.core.errors import DomainError, UnexpectedState
from service.core.sessions import EndCause, SessionEnd
from service.process.serving import redis_of
from service.web import app_keys
from service.web.api import session_routes, vary
from service.web.api.authentication import Handler, Middlewares
from service.web.api.rate_limit_headers import limit_lines
from service.web.app_keys import UserContext
from service.web.routes import LOGOUT, STATUS

__all__ = [
    "AdmittedSession",
    "EndCause",
    "SessionEnd",
    "UserContext",
    "capability",
    "logout",
    "session_middleware",
    "session_of",
    "status",
    "user_of",
]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

logout, status = session_routes.logout, session_routes.status
"""Handlers for routes of the application; they answer as `/auth/logout` and `/auth/status` do."""

_CAPABILITY = "__rollcall_capability__"
_OPERATIONS: dict[object, app_keys.Operation] = {logout: LOGOUT, status: STATUS}
_VERIFY = app_keys.Operation("verify", original=lambda request, rules: (request.method, request.raw_path))


def capability(name: str) -> Callable[[Decorated], Decorated]:
    """Decorate a handler, a `web.View` or a method of one: it needs capability `name`.

    Tenants and users may be restricted from it. A handler whose capability the middleware did not see, because another
    decorator hides it or the middleware is missing, answers 500 instead of serving the request.
    """

    def decorate(handler: Decorated) -> Decorated:
        if isinstance(handler, type):
            setattr(handler, _CAPABILITY, name)
            return handler

        @wraps(handler)
        async def checked(target: Any) -> web.StreamResponse:
            request = target if isinstance(target, web.Request) else target.request
            context = request.get(app_keys.REQUEST_CONTEXT)
            if context is None or context.capability != name:
                raise UnexpectedState(f"Capability {name} was not checked")
            response: web.StreamResponse = await handler(target)
            return response

        setattr(checked, _CAPABILITY, name)
        return cast("Decorated", checked)

    return decorate


def _capability_of(handler: object, method: str) -> str | None:
    """Return the capability that a request needs, as `capability` noted it.

    Raises:
        UnexpectedState: a view and its method name different ones.
    """
    found = getattr(handler, _CAPABILITY, None)
    if isinstance(handler, type):
        own = getattr(getattr(handler, method.lower(), None), _CAPABILITY, None)
        if found is not None and own is not None and found != own:
            raise UnexpectedState(f"{handler.__name__} and its method {method} need different capabilities")
        found = own or found
    return found


def user_of(request: web.Request) -> UserContext | None:
    """Return the tenant, identity and admission of the caller; None on an open route."""
    return request[app_keys.REQUEST_CONTEXT].context


class AdmittedSession:
    """The session of an admitted request, for handlers whose answer lasts: streams, long polls, WebSockets."""

    def __init__(self, context: app_keys.RequestContext) -> None:
        self._context = context

    @property
    def ended(self) -> asyncio.Future[SessionEnd]:
        """A future of the session's end: await it, pass it to `asyncio.wait`, or add a callback.

            ended = session_of(request).ended
            end = await ended
            await socket.close(code=1008, message=end.cause.encode())

        Its result is a `SessionEnd`: `cause` (an `EndCause`, which is a string), `at_ms` (when, by Redis's clock, in
        milliseconds since the epoch; None where that is not known), `by`, `reason` and `capability`. `by` and `reason`
        are the operator's: they are for the log, not for the client.

        | cause | what happened |
        |---|---|
        | `suspended`, `terminated` | to the user, by an operator or by its own request |
        | `revoked` | the token of this request was revoked, with the user's or with all of the tenant's |
        | `restricted` | the user or the tenant was restricted from a capability that this request needed |
        | `shutdown` | the application shuts down, and nothing happened to the user |

        In short, the future is done once an operator's act has the next request with this token refused. A logout
        does not invalidate the token and does not end the session, unless it is one of all devices (`everywhere`),
        which revokes. Neither does the expiry of the token (`user_of(request).identity.expires_ms`), nor that an
        operator forgets the user.

        - The act counts from the admission of the request on, whenever the future is asked for. One that was lifted
          again before it was noticed may be passed over.
        - It fires within milliseconds of the act; within about a second where Redis's push is lost.
        - While Redis is away it does not fire. When Redis is back, what happened meanwhile ends it, within about a
          second. Where events were lost (a gap: the stream keeps about 10,000), what holds for the user is read
          anew; `at_ms` and `by` may not be known then.
        - The middleware does not reload its configuration: a tenant or a capability that is removed from the file
          holds after a restart, which ends all sessions (`shutdown`).
        - Each access returns a new future: take it once, and keep it. Cancelling it affects no other. It is cancelled
          when the handler returns.

        A request that does not ask for it costs nothing. One that does costs a read in Redis, which requests that ask
        at the same moment share; the events of a tenant are read once for the whole process.

        Raises:
            UnexpectedState: the handler has returned, so there is nothing left to end.
        """
        context = self._context
        if context.handled:
            raise UnexpectedState("The request has been answered")
        if context.open_session is None:
            identity, _ = context.admitted()
            context.open_session = context.services.open_session(identity, context.capabilities())
        return context.open_session.ended()


def session_of(request: web.Request) -> AdmittedSession | None:
    """Return the session of the caller; None on an open route, where nobody is known.

    Raises:
        UnexpectedState: the middleware did not see this request.
    """
    context = request.get(app_keys.REQUEST_CONTEXT)
    if context is None:
        raise UnexpectedState("The session middleware did not see this request")
    return AdmittedSession(context) if context.identity is not None else None


def session_middleware(app: web.Application, config: Path | str = "config.yaml") -> Middleware:
    """Return a middleware for `app` that admits each request, or answers with the envelope of the refusal.

    It connects to Redis (with `redis.url: embedded` the server too) when `app` starts, and closes them with it.
    Limit headers and `x-request-id` are on every answer. What has no route stays 404 or 405, uncharged.

    Args:
        app: the application, not yet started.
        config: the configuration file; of `server:` only the settings for the client's address are read.

    Raises:
        ConfigurationError: the file cannot be used; has all mistakes.
    """
    path = Path(config)
    settings = load(path)
    if not structlog.is_configured():  # its default prints, which can block or raise
        logs.configure_structlog()
    middlewares: list[Middlewares] = []
    runtimes: list[Runtime] = []

    async def open_with(app: web.Application) -> AsyncIterator[None]:
        with ExitStack() as stack:
            open_redis, _ = await asyncio.to_thread(stack.enter_context, redis_of(settings, path))
            runtime = await asyncio.to_thread(lambda: Runtime(settings, open_redis()))
            middlewares.append(Middlewares(runtime.services(_OPERATIONS)))
            runtimes.append(runtime)
            async with asynccontextmanager(runtime.run)(app):
                yield
            await asyncio.to_thread(stack.close)

    async def end_sessions(app: web.Application) -> None:
        for runtime in runtimes:  # none where the application did not start
            await runtime.end_streams(app)

    @web.middleware
    async def session(request: web.Request, handler: Handler) -> web.StreamResponse:
        match = request.match_info
        if match.http_exception is not None:
            return await handler(request)
        admitting = middlewares[0]
        context = request[app_keys.REQUEST_CONTEXT] = admitting.begin(request)
        try:
            operation = _OPERATIONS.get(match.handler, _VERIFY)
            context.capability = _capability_of(match.handler, request.method)
            await admitting.admit(request, operation, context.capability)
        except DomainError as error:
            return admitting.refuse(request, context, error).to_aiohttp()
        try:
            return await handler(request)
        finally:
            context.handled = True
            if context.open_session is not None:
                context.open_session.close()

    app.cleanup_ctx.append(open_with)
    app.on_shutdown.append(end_sessions)
    app.on_response_prepare.append(_add_headers)
    return session


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header lines that describe the admission; for `on_response_prepare`."""
    context = request.get(app_keys.REQUEST_CONTEXT)
    if context is not None:
        for line in _lines(context).splitlines():
            name, _, value = line.partition(": ")
            if name == "vary":  # in addition to what the application names
                if value not in response.headers.getall(name, ()):
                    response.headers.add(name, value)
            else:
                response.headers[name] = value


def _lines(context: app_keys.RequestContext) -> str:
    """Return the header lines that describe the admission."""
    lines = limit_lines(context.admission, 200) if context.admission is not None else ""
    return f"x-request-id: {context.request_id}\r\nvary: {context.reads or vary.CREDENTIALS}\r\n{lines}"
