"""The envelope of every answer of the API: `meta` with `data` or `error`."""

import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from aiohttp import web
from multidict import istr

from service.core.text.timestamps import timestamp
from service.web.app_keys import REQUEST_CONTEXT, RequestContext
from service.web.monitoring.redaction import is_token
from service.web.policy import Policy
from service.web.server.request_head import AnyRequest
from service.web.server.responses import ApiResponse

REQUEST_ID = istr("x-request-id")
REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:-]{1,128}")

DONE = '{"success": true}'
"""The data of an answer that reports only success."""

_encode = json.JSONEncoder(ensure_ascii=False).encode
quoted = json.encoder.encode_basestring
"""A string as JSON, quotes included; much faster than an encoder for a whole object."""
_prefix = ""
_numbers = count(10**9)  # the number of digits stays the same for nine billion


def _renew_prefix() -> None:
    """Make a prefix for this process: forked workers must not make the same ids."""
    global _prefix
    _prefix = f"req-{secrets.token_hex(7)}"


_renew_prefix()
os.register_at_fork(after_in_child=_renew_prefix)


def request_id_of(request: AnyRequest, policy: Policy) -> str:
    """Return the client's request id if it is sent once, well-formed and not a token; otherwise make a new one."""
    given = request.headers.get(REQUEST_ID)
    if given is None or len(request.headers.getall(REQUEST_ID)) != 1:
        return new_request_id()
    return accepted_request_id(given, policy)


def accepted_request_id(given: str, policy: Policy) -> str:
    """Return the request id that a client sends if it is well-formed and not a token; otherwise make a new one."""
    return given if REQUEST_ID_FORM.fullmatch(given) and not is_token(given, policy) else new_request_id()


def new_request_id() -> str:
    """Return a request id that no other request has: a prefix of the process and a number."""
    return f"{_prefix}{next(_numbers)}"


def success(request: web.Request, data: Any, status: int = 200, *, latest_ms: int = 0) -> web.Response:
    """Return the envelope around `data`. `latest_ms`: the latest past moment in it, by Redis's clock."""
    return _answer(request[REQUEST_CONTEXT], "data", _encode(data), status, latest_ms).to_aiohttp()


def done(request: web.Request) -> web.Response:
    """Return the envelope of an answer that reports only success."""
    return success_of(request[REQUEST_CONTEXT], DONE).to_aiohttp()


def success_of(context: RequestContext, data: str, latest_ms: int = 0) -> ApiResponse:
    """Return the envelope around data that is JSON already. `latest_ms`: as in `success`."""
    return _answer(context, "data", data, 200, latest_ms)


def failure(
    context: RequestContext, code: str, status: int, message: str, validation: Sequence[tuple[str, str]] = ()
) -> ApiResponse:
    """Return the envelope around an error; `validation` has fields and what is wrong with them."""
    if not validation:
        return _answer(context, "error", _error(code, status, message), status)
    listed = [{"field": field, "message": what} for field, what in validation]
    error = {"message": message, "code": code, "status": status, "validation": listed}
    return _answer(context, "error", _encode(error), status)


@lru_cache(maxsize=256)
def _error(code: str, status: int, message: str) -> str:
    """Encode an error once, so that a refusal costs no more than an admission."""
    error = {"message": message, "code": code, "status": status}
    return _encode(error)


def _answer(context: RequestContext, kind: str, content: str, status: int, latest_ms: int = 0) -> ApiResponse:
    now_ms = time.time_ns() // 1_000_000
    if latest_ms > now_ms:  # Redis's clock is ahead: an answer must not be older than the events in it
        now_ms = latest_ms
    # The request id needs no escaping: its pattern allows nothing that JSON escapes.
    # The newline at the end keeps a terminal's prompt on a line of its own.
    text = (
        f'{{"meta": {{"requestId": "{context.request_id}", "timestamp": "{timestamp(now_ms)}"}}, '
        f'"{kind}": {content}}}\n'
    )
    return ApiResponse(status, text.encode("utf-8", "backslashreplace"))
