"""The envelope of every answer of the API: `meta` with `data` or `error`."""

import json
import os
import re
import time
from functools import lru_cache
from typing import Any

from aiohttp import web

from service.web.keys import REQUEST_ID

REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(request: web.Request) -> str:
    """The client's request id where it is well-formed, otherwise a new one."""
    given = request.headers.get("x-request-id")
    if given is not None and REQUEST_ID_FORM.fullmatch(given):
        return given
    return f"req-{os.urandom(12).hex()}"


def timestamp(ms: int | None) -> str | None:
    """Milliseconds since the epoch as `2025-01-15T10:30:00.000Z`; None stays None."""
    if ms is None:
        return None
    second, rest = divmod(ms, 1000)
    return f"{_to_the_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=1024)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def success(request: web.Request, data: Any, *, status: int = 200) -> web.Response:
    """The envelope around `data`."""
    return _answer(request, {"data": data}, status)


def failure(request: web.Request, code: str, status: int, message: str) -> web.Response:
    """The envelope around an error."""
    return _answer(request, {"error": {"message": message, "code": code, "status": status}}, status)


def _answer(request: web.Request, content: dict[str, Any], status: int) -> web.Response:
    meta = {"requestId": request[REQUEST_ID], "timestamp": timestamp(time.time_ns() // 1_000_000)}
    body = json.dumps({"meta": meta, **content}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = {"content-type": "application/json; charset=utf-8"}
    return web.Response(body=body, status=status, headers=headers)
