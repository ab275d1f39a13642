"""The same admission inside an aiohttp application: no proxy, no second service, the same Redis.

    app = web.Application()
    app.middlewares.append(session_middleware(app, "config.yaml"))

Every request of the application is then judged as `/auth/verify` judges a proxied one: by the limits of `verify`, by
`routes` where they are configured, and by the user's status. `examples/middleware` runs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from service.app import LOGOUT, STATUS, Runtime
from service.config.loading import load
from service.core.errors import DomainError
from service.serving import redis_of
from service.web import app_keys
from service.web.api import session_routes
from service.web.api.authentication import Handler, Middlewares
from service.web.api.rate_limit_headers import limit_lines
from service.web.app_keys import UserContext
from service.web.server.responses import Answer

__all__ = ["UserContext", "capability", "logout", "session_middleware", "status", "user_of"]

Decorated = TypeVar("Decorated", bound=Handler)

logout, status = session_routes.logout, session_routes.status
"""Handlers to be routed to where the application wants them: what `/auth/logout` and `/auth/status` answer."""

_CAPABILITY = "__rollcall_capability__"
_OPERATIONS: dict[object, app_keys.Operation] = {logout: LOGOUT, status: STATUS}
_VERIFY = app_keys.Operation("verify", original=lambda request, rules: (request.method, request.raw_path))


def capability(name: str) -> Callable[[Decorated], Decorated]:
    """Decorate a handler: it needs capability `name`, from which tenants and users may be restricted."""

    def decorate(handler: Decorated) -> Decorated:
        setattr(handler, _CAPABILITY, name)
        return handler

    return decorate


def user_of(request: web.Request) -> UserContext | None:
    """Tenant, identity and admission of who asks; None where an open route let the request in."""
    return request[app_keys.REQUEST_CONTEXT].context


def session_middleware(app: web.Application, config: Path | str = "config.yaml") -> Middleware:
    """A middleware for `app` that admits each request, or answers it with the envelope of the refusal.

    It opens its ways to Redis (with `redis.url: embedded` the server too) when `app` starts, and closes them with it.
    Limit headers and `x-request-id` are on every answer. What has no route stays 404 or 405, uncharged.

    Args:
        app: the application, not yet started.
        config: the configuration file; `server:` is not read, but for who is trusted to tell the client's address.

    Raises:
        ConfigurationError: the file cannot be used; tells all mistakes.
    """
    path = Path(config)
    settings = load(path)
    middlewares: list[Middlewares] = []

    async def open_with(app: web.Application) -> AsyncIterator[None]:
        with ExitStack() as stack:
            open_redis, _ = await asyncio.to_thread(stack.enter_context, redis_of(settings, path))
            runtime = await asyncio.to_thread(lambda: Runtime(settings, open_redis()))
            middlewares.append(Middlewares(runtime.services(_OPERATIONS)))
            async with asynccontextmanager(runtime.run)(app):
                yield
            await asyncio.to_thread(stack.close)

    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        context = request.get(app_keys.REQUEST_CONTEXT)
        if context is not None:
            for line in _lines(context).splitlines():
                name, _, value = line.partition(": ")
                response.headers[name] = value

    @web.middleware
    async def session(request: web.Request, handler: Handler) -> web.StreamResponse:
        match = request.match_info
        if match.http_exception is not None:
            return await handler(request)
        admitting = middlewares[0]
        context = request[app_keys.REQUEST_CONTEXT] = admitting.begin(request)
        try:
            operation = _OPERATIONS.get(match.handler, _VERIFY)
            await admitting.admit(request, operation, getattr(match.handler, _CAPABILITY, None))
        except DomainError as error:
            return admitting.refuse(request, context, error)
        response = await handler(request)
        if isinstance(response, Answer):
            response.lines += _lines(context)
        return response

    app.cleanup_ctx.append(open_with)
    app.on_response_prepare.append(tell)
    return session


def _lines(context: app_keys.RequestContext) -> str:
    """What an answer says of its admission."""
    lines = limit_lines(context.admission, 200) if context.admission is not None else ""
    return f"x-request-id: {context.request_id}\r\n{lines}"
