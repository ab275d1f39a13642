"""FastAPI with PyJWT, the state in Redis, and `limits` (sliding window counter), on uvicorn with uvloop."""

import sys
from typing import Annotated

import jwt
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis

PORT, REDIS, SECRET = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LIMIT = RateLimitItemPerMinute(1_000_000)
app = FastAPI()
redis = Redis.from_url(REDIS)
limiter = SlidingWindowCounterRateLimiter(RedisStorage(f"async+{REDIS}", implementation="redispy"))


async def claims_of(x_token: Annotated[str, Header()]) -> dict:
    try:
        return jwt.decode(x_token, SECRET, algorithms=["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401) from None


async def limit(request: Request) -> None:
    if not await limiter.hit(LIMIT, "status", request.client.host):
        raise HTTPException(429)


@app.get("/auth/status", dependencies=[Depends(limit)])
async def status(claims: Annotated[dict, Depends(claims_of)]) -> dict:
    state = await redis.get(f"session:{claims['sub']}") or b"logged_in"
    return {"user": claims["sub"], "status": state.decode()}


uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop", access_log=False, log_level="critical")
