"""An aiohttp application that admits its own requests, without a proxy and without a separate service.

    python examples/middleware/app.py --port 8081

Its configuration is in the same folder: the demo tenant, and a Redis of its own under `var/`.
"""

import argparse
from pathlib import Path

from aiohttp import web

from service.integrations.aiohttp import capability, logout, session_middleware, status, user_of

HERE = Path(__file__).parent


async def things(request: web.Request) -> web.Response:
    """List things for a user who is logged in."""
    who = user_of(request)
    return web.json_response({"things": ["a", "b"], "for": who.identity.user if who else None})


@capability("payments")
async def pay(request: web.Request) -> web.Response:
    """Pay, unless the configuration or an operator restricts the user from payments."""
    return web.json_response({"paid": request.match_info["number"]})


def make_app(config: Path) -> web.Application:
    """Return the application."""
    app = web.Application()
    app.middlewares.append(session_middleware(app, config))
    app.router.add_get("/things", things)
    app.router.add_post("/payments/{number}", pay)
    app.router.add_post("/logout", logout)  # not by GET, which browsers prefetch and clients repeat
    app.router.add_get("/status", status)
    return app


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8081)
    arguments.add_argument("--config", type=Path, default=HERE / "config.yaml")
    given = arguments.parse_args()
    web.run_app(make_app(given.config), host="127.0.0.1", port=given.port)
