"""What one would write with aiohttp: middlewares for PyJWT, the state in Redis, and `limits` (moving window)."""

import sys

import jwt
import uvloop
from aiohttp import web
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

PORT, REDIS, SECRET = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LIMIT = RateLimitItemPerMinute(1_000_000)


@web.middleware
async def authenticated(request: web.Request, handler):
    try:
        request["claims"] = jwt.decode(request.headers["x-token"], SECRET, algorithms=["HS256"])
    except (KeyError, jwt.PyJWTError):
        raise web.HTTPUnauthorized from None
    return await handler(request)


@web.middleware
async def limited(request: web.Request, handler):
    if not await request.app["limiter"].hit(LIMIT, "status", request.remote):
        raise web.HTTPTooManyRequests
    return await handler(request)


async def status(request: web.Request) -> web.Response:
    user = request["claims"]["sub"]
    state = await request.app["redis"].get(f"session:{user}") or b"logged_in"
    return web.json_response({"user": user, "status": state.decode()})


async def connect(app: web.Application) -> None:
    app["redis"] = Redis.from_url(REDIS)
    app["limiter"] = MovingWindowRateLimiter(RedisStorage(f"async+{REDIS}", implementation="redispy"))


app = web.Application(middlewares=[limited, authenticated])
app.on_startup.append(connect)
app.router.add_get("/auth/status", status)
web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None, loop=uvloop.new_event_loop())
