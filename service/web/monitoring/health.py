"""Handlers for liveness, readiness and metrics, which need no admission."""

import hmac

from aiohttp import web

from service.core.errors import StoreUnavailable, Unauthorized
from service.core.tenants import digest
from service.web import app_keys
from service.web.api.credentials import bearer_token
from service.web.api.envelope import success


async def healthz(request: web.Request) -> web.StreamResponse:
    """Answer 200: the process is alive."""
    return success(request, {"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """Answer 200 with the warnings while Redis takes writes, else 503."""
    services = request.app[app_keys.REQUEST_SERVICES]
    if blockers := services.readiness.blockers():
        raise StoreUnavailable("; ".join(blockers))
    if not await services.is_ready():
        raise StoreUnavailable("not ready")
    return success(request, {"status": "ready", "warnings": services.readiness.warnings()})


async def metrics(request: web.Request) -> web.StreamResponse:
    """Return the metrics in the Prometheus text format. If `metrics.token` is set, the request must carry it."""
    wanted = request.app[app_keys.REQUEST_SERVICES].policy.current.metrics_token_digest
    if wanted is not None:
        token = bearer_token(request.headers)
        if token is None or not hmac.compare_digest(digest(token), wanted):
            raise Unauthorized
    headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
    return web.Response(body=request.app[app_keys.REQUEST_SERVICES].metrics.text(), headers=headers)
