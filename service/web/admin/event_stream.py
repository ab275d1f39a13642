"""The event stream: what happens, as server-sent events (the HTML standard, section 9.2)."""

import asyncio
import json
import re
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.core.errors import Forbidden, InvalidRequest, NotFound, StoreUnavailable, Unauthorized
from service.core.session_lists import Event, Gap
from service.web import app_keys
from service.web.admin.authorization import AdminServices, for_viewers, operator_of, tenant_of
from service.web.admin.schemas import EventsQuery, read_query
from service.web.api import vary
from service.web.api.credentials import sent_more_than_once
from service.web.api.rate_limit_headers import limit_lines
from service.web.server.responses import SEND_TIMEOUT_S, complete

log = structlog.get_logger()

RETRY_MS = 1000
PING_S = 15.0
OPENING = b": This stream does not end. Close the connection to stop it, or set a time: timeout 5 curl ...\r\n\r\n"
"""The first bytes of the stream: a comment for people, which clients of server-sent events skip."""
_EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,19}")


@for_viewers
async def events(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """What happens to one tenant, from now on or from after `Last-Event-ID`."""
    tenant = tenant_of(request, admin.operator, read_query(request, EventsQuery).tenant).name
    places = request.headers.getall("last-event-id", ())
    if len(places) > 1:
        raise sent_more_than_once("last-event-id")
    after = next(iter(places), "") or None
    if after is not None and not _EVENT_ID.fullmatch(after):
        raise InvalidRequest([("last-event-id", "must be the id of an event")])
    async with request.app[app_keys.EVENT_FEEDS].follow(tenant, after) as subscription:
        if request.transport is None:
            raise web.HTTPBadRequest  # hung up meanwhile: nobody hears it
        response = EventSourceResponse(send_timeout=SEND_TIMEOUT_S, ping_interval=PING_S)
        response.headers["cache-control"] = "no-store"
        complete(response, _lines(request))
        await response.prepare(request)
        async with response:
            hung_up = asyncio.create_task(response.wait())
            hung_up.add_done_callback(lambda _: subscription.end())
            try:
                await response.write(OPENING)
                # Whoever loses the connection before the first event comes back with this place.
                await response.send("{}", id=subscription.since, event="ready", retry=RETRY_MS)
                may_hear = _may_still_hear(request, tenant)
                async for item in subscription:
                    if not may_hear():
                        break
                    await _send(response, item)
            except (ConnectionError, TimeoutError):
                pass
            except Exception as error:  # the answer has begun: there is no other way to tell than to end it
                reason = error.reason if isinstance(error, StoreUnavailable) else repr(error)
                log.warning("an event stream ends", tenant=tenant, reason=reason)
            finally:
                hung_up.cancel()
    return response


def _lines(request: web.Request) -> str:
    """What every answer tells in its headers; here before it is known how it ends."""
    context = request[app_keys.REQUEST_CONTEXT]
    limits = limit_lines(context.admission, 200) if context.admission is not None else ""
    return f"x-request-id: {context.request_id}\r\nvary: {vary.fields_read_at(request.path)}\r\n{limits}"


def _may_still_hear(request: web.Request, tenant: str) -> Callable[[], bool]:
    """Whether who listens still may; asked again whenever the configuration was reloaded."""
    policy = request.app[app_keys.REQUEST_SERVICES].policy
    judged_by = policy.current

    def may_hear() -> bool:
        nonlocal judged_by
        if policy.current is not judged_by:
            judged_by = policy.current
            try:
                tenant_of(request, operator_of(request), tenant)
            except (Unauthorized, Forbidden, NotFound):
                return False
        return True

    return may_hear


async def _send(response: EventSourceResponse, item: Event | Gap) -> None:
    if isinstance(item, Gap):
        await response.send(json.dumps({"after": item.after}), event="dropped" if item.dropped else "gap")
    else:
        await response.send(item.text, id=item.id, event=item.fields.get("type", "other"))
