"""Every HTTP operation: path → handler. A new one is added here.

An operation that asks for an admission is also in `OPERATIONS`, with what is asked. The most frequent ones are on the
hot path as well, with a function that answers without a task.
"""

from collections.abc import Mapping
from importlib.resources import as_file, files

from aiohttp import web

from service.web import app_keys
from service.web.admin import not_found
from service.web.admin import routes as admin_routes
from service.web.api import cors, forward_auth, links, session_routes, vary
from service.web.api.authentication import Middlewares
from service.web.dashboard import views
from service.web.dashboard.pages import API, ROOT, files_of
from service.web.monitoring import health
from service.web.openapi import docs_reader
from service.web.server.hot_path import HotPath, HotRoute, without_continue

LOGOUT = app_keys.Operation("logout", reads=vary.LOGOUT, refuses_prefetch=True)
STATUS = app_keys.Operation("status")
TERMINATE = app_keys.Operation("terminate", own_terms=session_routes.ending)
OPERATIONS: Mapping[object, app_keys.Operation] = {
    session_routes.logout: LOGOUT,
    session_routes.status: STATUS,
    session_routes.terminate: TERMINATE,
    **dict(forward_auth.PROFILES.values()),
}
"""Handler → the operation that it answers."""


def hot_path(middlewares: Middlewares) -> HotPath:
    """Return the hot path, for the most frequent operations."""

    def hot_route(operation: app_keys.Operation, answer: app_keys.Responder) -> HotRoute:
        return HotRoute(operation, answer, middlewares.around(operation, answer))

    logout = hot_route(LOGOUT, session_routes.logged_out)
    by_method = {
        ("GET", "/auth/status"): hot_route(STATUS, session_routes.session_status),
        ("GET", "/auth/logout"): logout,
        ("POST", "/auth/logout"): logout,
    }
    profiles = forward_auth.PROFILES.items()
    verify = {path: hot_route(operation, forward_auth.verified) for path, (_, operation) in profiles}
    behind, envoy = f"{forward_auth.ENVOY}/", verify[forward_auth.ENVOY]

    def find(method: str, path: str) -> HotRoute | None:
        # Envoy's requests never reach the router, which would resolve the dots of a path for the API.
        return verify.get(path) or by_method.get((method, path)) or (envoy if path.startswith(behind) else None)

    return HotPath(middlewares, find)


def add_routes(app: web.Application, base_path: str) -> None:
    """Add every route to `app`.

    Args:
        app: the application.
        base_path: `server.base_path`; the dashboard is served under it as well.
    """
    envoy, _ = forward_auth.PROFILES[forward_auth.ENVOY]
    with (
        as_file(files("service.web.dashboard") / "static") as static,
        as_file(files("swagger_ui") / "static") as reader,
    ):
        app.add_routes(
            [
                web.get("/", links.start_page),
                web.get("/auth/logout", session_routes.logout, allow_head=False, expect_handler=without_continue),
                web.post("/auth/logout", session_routes.logout, expect_handler=without_continue),
                web.options("/auth/logout", cors.preflight),
                web.get("/auth/status", session_routes.status, expect_handler=without_continue),
                web.options("/auth/status", cors.preflight),
                *(
                    web.route("*", path, handler, expect_handler=without_continue)
                    for path, (handler, _) in forward_auth.PROFILES.items()
                ),
                web.route("*", f"{forward_auth.ENVOY}/{{path:.*}}", envoy, expect_handler=without_continue),
                web.post("/auth/terminate", session_routes.terminate),
                web.options("/auth/terminate", cors.preflight),
                *admin_routes.routes(not_found.ROOT),
                web.get("/healthz", health.healthz),
                web.options("/healthz", health.healthz),
                web.get("/readyz", health.readyz),
                web.options("/readyz", health.readyz),
                web.get("/metrics", health.metrics),
            ]
        )
        # Under the prefix as well: whether a proxy removes it or not is the proxy's choice.
        for base in dict.fromkeys(("", base_path)):
            root = f"{base}{ROOT}"
            app.add_routes(
                [
                    *admin_routes.routes(f"{base}{API}"),
                    web.get(root, views.overview),
                    web.get(f"{root}/user", views.user),
                    web.get(f"{root}/rules", views.rules),
                    web.get(f"{root}/login", views.login_form),
                    web.post(f"{root}/login", views.login),
                    web.post(f"{root}/logout", views.logout),
                    web.get(f"{root}/static/{{name:.+}}", files_of(static)),
                    web.get(f"{base}/openapi.json", docs_reader.described),
                    web.get(f"{base}{docs_reader.ROOT}", docs_reader.reader),
                    web.get(f"{base}{docs_reader.ROOT}/ui/{{name:.+}}", files_of(reader)),
                ]
            )
