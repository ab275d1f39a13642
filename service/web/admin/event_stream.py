"""The event stream: the events of a tenant as server-sent events (the HTML standard, section 9.2)."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.core.errors import Forbidden, InvalidRequest, NotFound, StoreUnavailable, Unauthorized
from service.core.session_lists import Event, Gap, Subscription
from service.web import app_keys
from service.web.admin.authorization import AdminServices, for_listeners, operator_of, tenant_of
from service.web.admin.schemas import EventsQuery, read_query
from service.web.api import vary
from service.web.api.credentials import sent_more_than_once
from service.web.api.rate_limit_headers import limit_lines
from service.web.dashboard.login import browser_of
from service.web.dashboard.pages import ROOT, local_path
from service.web.server.http_server import SEND_TIMEOUT_S
from service.web.server.responses import complete

log = structlog.get_logger()

RETRY_MS = 1000
PING_S = 15.0
"""Between comments, where the client does not ask for another interval."""
AGAIN_S = 0.5
"""How often a stream that waits for Redis tries again."""
LOOK_EVERY_S = 1.0
"""How often a stream looks whether its client may still listen."""
OPENING = ": This stream does not end. Close the connection to stop it, or set a time: timeout 5 curl ...\r\n"
"""The first line of the stream: a comment for people, which clients of server-sent events skip."""
PING = ": ping\r\n"
_NEVER_S = 1e9
_LINE_END = re.compile(r"\r\n|\r|\n")
_EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,19}")


@for_listeners
async def events(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Send the events of one tenant, from now on or after `Last-Event-ID`.

    While Redis is away the answer is 200, too, and waits: clients of server-sent events give up for good on
    anything else.
    """
    query = read_query(request, EventsQuery)
    tenant = tenant_of(request, admin.operator, query.tenant).name
    places = request.headers.getall("last-event-id", ())
    if len(places) > 1:
        raise sent_more_than_once("last-event-id")
    after = next(iter(places), "") or None
    if after is not None and not _EVENT_ID.fullmatch(after):
        raise InvalidRequest([("last-event-id", "must be the id of an event")])
    if request.transport is None:
        raise web.HTTPBadRequest  # the client has closed the connection
    # The comments of aiohttp_sse end in an empty line, which some clients take for the end of an event: see _block.
    response = EventSourceResponse(send_timeout=SEND_TIMEOUT_S, ping_interval=_NEVER_S)
    response.headers["cache-control"] = "no-store"
    complete(response, _lines(request))
    await response.prepare(request)
    ending = _Ending()
    async with response, AsyncExitStack() as stack:
        hung_up = asyncio.create_task(response.wait())
        hung_up.add_done_callback(lambda _: ending.end())
        may_read = _may_still_read(request, tenant)
        watching = asyncio.create_task(_watch(request, may_read, ending))
        pinging = asyncio.create_task(_ping(request, response, _ping_interval_s(query.ping), ending))
        try:
            await _write(request, response, OPENING)
            subscription = await _subscribe(request, response, tenant, after, ending, stack)
            if subscription is not None:
                # A client that loses the connection before the first event comes back with this id.
                ready = _block("ready", '{"type": "ready"}', subscription.since, f"retry: {RETRY_MS}")
                await _write(request, response, ready)
                async for item in subscription:
                    if ending.ended.is_set() or not may_read():
                        break
                    await _write(request, response, _text_of(item))
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:  # the answer has begun: it can only be ended
            reason = error.reason if isinstance(error, StoreUnavailable) else repr(error)
            log.warning("an event stream ends", tenant=tenant, reason=reason)
        finally:
            for task in (hung_up, watching, pinging):
                task.cancel()
    return response


class _Ending:
    """Ends a stream, also one that still waits for Redis."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.subscription: Subscription | None = None

    def end(self) -> None:
        """End it."""
        self.ended.set()
        if self.subscription is not None:
            self.subscription.end()


def _ping_interval_s(asked_s: int | None) -> float:
    """Return the seconds between comments: somewhat less than what the client asked for, so that none is late."""
    return PING_S if asked_s is None else asked_s * 0.9


async def _subscribe(
    request: web.Request,
    response: EventSourceResponse,
    tenant: str,
    after: str | None,
    ending: _Ending,
    stack: AsyncExitStack,
) -> Subscription | None:
    """Follow the tenant's events as soon as Redis answers. Returns None where the stream ended before.

    The time to come back is sent ahead of the first event only where Redis is away. Otherwise it comes with it.
    """
    services, feeds = request.app[app_keys.REQUEST_SERVICES], request.app[app_keys.EVENT_FEEDS]
    waited = False
    while not ending.ended.is_set():
        if not services.is_down():
            with suppress(StoreUnavailable):
                ending.subscription = await stack.enter_async_context(feeds.follow(tenant, after))
                return ending.subscription
        if not waited:
            waited = True
            await _write(request, response, f"retry: {RETRY_MS}\r\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await ending.ended.wait()
    return None


async def _watch(request: web.Request, may_read: Callable[[], bool], ending: _Ending) -> None:
    """End the stream when the service ends, or when the operator's right to it does."""
    feeds = request.app[app_keys.EVENT_FEEDS]
    while not ending.ended.is_set():
        if feeds.ending or not may_read():
            return ending.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await ending.ended.wait()
    return None


def _lines(request: web.Request) -> str:
    """Return the header lines that every answer has; here they are sent before the answer ends."""
    context = request[app_keys.REQUEST_CONTEXT]
    limits = limit_lines(context.admission, 200) if context.admission is not None else ""
    return f"x-request-id: {context.request_id}\r\nvary: {vary.fields_read_at(local_path(request))}\r\n{limits}"


def _may_still_read(request: web.Request, tenant: str) -> Callable[[], bool]:
    """Return a check whether the operator may still read: a token after each reload, a browser each time."""
    policy, feeds = request.app[app_keys.REQUEST_SERVICES].policy, request.app[app_keys.EVENT_FEEDS]
    browser = browser_of(request) if local_path(request).startswith(f"{ROOT}/") else None
    judged_by = policy.current

    def may_read() -> bool:
        nonlocal judged_by
        if browser is not None and feeds.has_ended(browser.session):
            return False
        if browser is not None or policy.current is not judged_by:
            judged_by = policy.current
            try:
                tenant_of(request, operator_of(request), tenant)
            except (Unauthorized, Forbidden, NotFound):
                return False
        return True

    return may_read


async def _ping(request: web.Request, response: EventSourceResponse, every_s: float, ending: _Ending) -> None:
    """Send a comment now and then, so that proxies keep the connection, and end the stream once it is lost."""
    with suppress(ConnectionError, RuntimeError, TimeoutError):  # RuntimeError: the answer has ended
        while True:
            await asyncio.sleep(every_s)
            await _write(request, response, PING)
    ending.end()


def _text_of(item: Event | Gap) -> str:
    if isinstance(item, Gap):
        kind = "dropped" if item.dropped else "gap"
        return _block(kind, json.dumps({"type": kind, "after": item.after}))
    return _block(item.fields.get("type", "other"), item.text, item.id)


def _block(kind: str, data: str, event_id: str | None = None, *fields: str) -> str:
    """Return the lines of an event, and the empty line that ends it.

    Common clients differ from the HTML standard in two points (findings/fetch-event-source-*.sh). Some take each empty
    line for the end of an event, so an empty line follows data only, and neither comments nor `retry`. Some store the
    `id` as soon as they read it, and lose the event if its rest does not arrive, so `id` is the last line.
    """
    lines = [f"event: {_LINE_END.sub(' ', kind)}", *(f"data: {line}" for line in _LINE_END.split(data)), *fields]
    if event_id is not None:
        lines.append(f"id: {event_id}")
    return "\r\n".join([*lines, "", ""])


async def _write(request: web.Request, response: EventSourceResponse, text: str) -> None:
    """Send text.

    Raises:
        TimeoutError: the client reads nothing for `SEND_TIMEOUT_S`; the connection is given up.
        ConnectionError: the client has closed the connection.
    """
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await response.write(text.encode())
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise
