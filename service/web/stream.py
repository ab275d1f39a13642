"""The event stream: what happens, as server-sent events (the HTML standard, section 9.2)."""

import asyncio
import json
import re
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.core.errors import InvalidRequest
from service.core.listing import Event, Gap
from service.web import keys
from service.web.envelope import timestamp
from service.web.operators import Desk, for_viewers, tenant_of
from service.web.schemas import EventsQuery, read_query

RETRY_MS = 1000
SEND_TIMEOUT_S = 10.0
"""A listener that takes nothing for so long is hung up on."""
PING_S = 15.0
_EVENT_ID = re.compile(r"\d{1,15}-\d{1,19}")
_NAMES = {"user": "userId", "request": "requestId"}
_NUMBERS = ("requests", "window", "count", "all")


@for_viewers
async def events(request: web.Request, desk: Desk) -> web.StreamResponse:
    """What happens to one tenant, from now on or from after `Last-Event-ID`."""
    tenant = tenant_of(request, desk.operator, read_query(request, EventsQuery).tenant).name
    after = request.headers.get("last-event-id") or None
    if after is not None and not _EVENT_ID.fullmatch(after):
        raise InvalidRequest([("last-event-id", "must be the id of an event")])
    async with request.app[keys.FEEDS].follow(tenant, after) as following:
        headers = {"x-request-id": request[keys.EXCHANGE].request_id, "x-content-type-options": "nosniff"}
        response = EventSourceResponse(headers=headers, send_timeout=SEND_TIMEOUT_S, ping_interval=PING_S)
        response.headers["cache-control"] = "no-store"
        await response.prepare(request)
        async with response:
            hung_up = asyncio.create_task(response.wait())
            hung_up.add_done_callback(lambda _: following.end())
            try:
                # Whoever loses the connection before the first event comes back with this place.
                await response.send("{}", id=following.since, event="ready", retry=RETRY_MS)
                async for item in following:
                    await _send(response, tenant, item)
            except (ConnectionError, TimeoutError):
                pass
            finally:
                hung_up.cancel()
    return response


async def _send(response: EventSourceResponse, tenant: str, item: Event | Gap) -> None:
    if isinstance(item, Gap):
        await response.send(json.dumps({"after": item.after}), event="dropped" if item.dropped else "gap")
    else:
        text = _text(tenant, item.id) or _remember(tenant, item)
        await response.send(text, id=item.id, event=item.fields.get("type", "other"))


_texts: dict[tuple[str, str], str] = {}
_MOST_TEXTS = 1000


def _text(tenant: str, event_id: str) -> str:
    return _texts.get((tenant, event_id), "")


def _remember(tenant: str, event: Event) -> str:
    """Its text: written once, however many listen."""
    while len(_texts) >= _MOST_TEXTS:
        del _texts[next(iter(_texts))]
    text = _texts[tenant, event.id] = json.dumps(event_data(event), ensure_ascii=False)
    return text


def event_data(event: Event) -> dict[str, Any]:
    """An event, with its moments as timestamps and its numbers as numbers."""
    told: dict[str, Any] = {"id": event.id, "at": timestamp(event.at_ms)}
    for name, value in event.fields.items():
        if name in _NUMBERS:
            told[name] = int(value)
        elif name == "until":
            told[name] = timestamp(int(value))
        elif name == "before":
            told[name] = timestamp(int(value) * 1000)
        else:
            told[_NAMES.get(name, name)] = value
    return told
