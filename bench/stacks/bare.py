"""Bare aiohttp on uvloop: a constant answer."""

import sys

import uvloop
from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


app = web.Application()
app.router.add_get("/auth/status", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())
