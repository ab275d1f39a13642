"""Webhooks: each event of a tenant to each receiver, at least once and in order.

One worker at a time delivers a webhook: it holds a lease, and begins at a cursor that Redis keeps. A receiver that does
not answer 2xx gets the message again after longer and longer waits, and holds up no other webhook. An operator may
pause a webhook, or have it go on without the message that waits.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from service.background import webhook_sending
from service.core.errors import StoreUnavailable
from service.core.session_lists import Event, EventFeeds, Gap
from service.core.tasks import end, keep_running, round_completed, work_failed
from service.core.text.timestamps import timestamp
from service.core.webhooks import Message, Pause, SetAside, Waiting, Webhook, WebhookLedger, gap_message

log = structlog.get_logger()

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
RENEW_EVERY_S = 4.0
AGAIN_S = 0.5
"""Seconds to wait after Redis failed, or after the subscription ended."""
LOOK_EVERY_S = 5.0
"""How often a worker without the lease tries to take it, in seconds."""
ORDERS_EVERY_S = 1.0
"""How often a worker whose message waits reads an operator's orders, in seconds."""


@dataclass(frozen=True, slots=True)
class _Pace:
    """How long a worker waits, in seconds."""

    waits: Callable[[int], float]
    """Before an attempt, by how many have failed."""
    orders_every_s: float
    """Between two readings of an operator's orders."""


class Webhooks:
    """Delivers all configured webhooks.

    Args:
        webhook_states: the position of each webhook, its lease, and operators' orders.
        event_feeds: the events.
        waits: returns how many seconds to wait before an attempt, from how many have failed.
        orders_every_s: how often to read an operator's orders while a message waits, in seconds.
        on_failure: is called with tenant and webhook after each attempt that failed.
    """

    def __init__(
        self,
        webhook_states: WebhookLedger,
        event_feeds: EventFeeds,
        waits: Callable[[int], float] | None = None,
        orders_every_s: float = ORDERS_EVERY_S,
        on_failure: Callable[[str, str], None] = lambda tenant, webhook: None,
    ) -> None:
        self._webhook_states = webhook_states
        self._event_feeds = event_feeds
        self._pace = _Pace(waits or _wait_s, orders_every_s)
        self._on_failure = on_failure
        self._waiting_ms: dict[tuple[str, str], int] = {}
        """When the event happened that each webhook is about to deliver, in ms since the epoch."""
        self._wanted: tuple[Webhook, ...] = ()
        self._changed = asyncio.Event()

    def follow(self, webhooks: Collection[Webhook]) -> None:
        """Deliver these webhooks from now on."""
        self._wanted = tuple(webhooks)
        self._changed.set()

    def oldest_waiting_s(self) -> dict[tuple[str, str], float]:
        """Return for how long the oldest undelivered event waits, of each webhook that this worker delivers."""
        now_ms = _now_ms()
        return {webhook: max(0.0, (now_ms - at_ms) / 1000) for webhook, at_ms in self._waiting_ms.items()}

    async def run_forever(self) -> None:
        """Deliver all of them, until cancelled."""
        tasks: dict[Webhook, asyncio.Task[None]] = {}
        async with webhook_sending.session() as session:
            try:
                while True:
                    self._changed.clear()
                    await end([tasks.pop(webhook) for webhook in tasks.keys() - set(self._wanted)])
                    for webhook in self._wanted:
                        if webhook not in tasks:
                            worker = _DeliveryWorker(
                                webhook,
                                self._webhook_states,
                                self._event_feeds,
                                session,
                                self._pace,
                                self._on_failure,
                                self._waiting_ms,
                            )
                            name = f"webhook {webhook.name} of {webhook.tenant}"
                            tasks[webhook] = asyncio.create_task(keep_running(name, worker.run_forever))
                    round_completed()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_EVERY_S):
                            await self._changed.wait()
            finally:
                await end(tasks.values())


class _DeliveryWorker:
    """Delivers one webhook in one worker."""

    def __init__(
        self,
        webhook: Webhook,
        webhook_states: WebhookLedger,
        event_feeds: EventFeeds,
        session: aiohttp.ClientSession,
        pace: _Pace,
        on_failure: Callable[[str, str], None],
        waiting_ms: dict[tuple[str, str], int],
    ) -> None:
        self._webhook = webhook
        self._webhook_states = webhook_states
        self._event_feeds = event_feeds
        self._session = session
        self._pace = pace
        self._on_failure = on_failure
        self._waiting_ms = waiting_ms
        self._at = (webhook.tenant, webhook.name)
        self._log = log.bind(tenant=webhook.tenant, webhook=webhook.name)

    async def run_forever(self) -> None:
        """Deliver whenever this worker holds the lease, until cancelled."""
        while True:
            held = True
            try:
                held = await self._webhook_states.hold(*self._at)
                if held:
                    await self._deliver_while_held()
            except StoreUnavailable as error:
                work_failed(error.reason, error.kind)
            await asyncio.sleep(AGAIN_S if held else LOOK_EVERY_S)

    async def _deliver_while_held(self) -> None:
        delivering = asyncio.create_task(self._deliver_events())
        try:
            while not delivering.done() and await self._webhook_states.hold(*self._at):
                await asyncio.wait([delivering], timeout=RENEW_EVERY_S)
            if delivering.done():
                await delivering
        finally:
            await end([delivering])
            with suppress(StoreUnavailable):
                await self._webhook_states.release(*self._at)

    async def _deliver_events(self) -> None:
        """Deliver events, from the position of the last worker."""
        state = await self._webhook_states.take_up(*self._at)
        if state.gap is not None:
            await self._deliver(state.gap)
        tenant = self._webhook.tenant
        async with self._event_feeds.follow(tenant, state.cursor) as subscription:
            async for item in subscription:
                if isinstance(item, Gap):
                    if item.dropped:  # the receiver was away for long: continue from the cursor
                        return
                    at = timestamp(_now_ms())
                    await self._deliver(gap_message(tenant, f"gap-{item.after}", at, after=item.after, cause="lost"))
                elif item.fields.get("type", "") in self._webhook.types:
                    if (gap := await self._deliver(_message_of(tenant, item))) is not None:
                        await self._deliver(gap)
                else:
                    await self._webhook_states.delivered(*self._at, item.id)

    async def _deliver(self, message: Message) -> Message | None:
        """Send it until it arrives or is set aside. Returns the message that reports the gap, if there is one."""
        self._waiting_ms[self._at] = message.event_ms or _now_ms()
        try:
            return await self._attempt(message)
        finally:
            del self._waiting_ms[self._at]

    async def _attempt(self, message: Message) -> Message | None:
        failed = 0
        while True:
            orders = await self._webhook_states.orders(*self._at)
            waiting = orders.waiting
            if waiting is None or waiting.message_id != message.id:
                waiting = Waiting(message.id, message.content)
            if orders.skip is not None and orders.skip.message_id == message.id:
                return await self._set_aside(message, waiting, "skipped", orders.skip.by, orders.skip.reason)
            if orders.paused is not None:
                if orders.waiting is None:
                    await self._webhook_states.wait(*self._at, waiting)  # so that operators see it
                await asyncio.sleep(self._pace.orders_every_s)
                continue
            left_s = (waiting.next_ms - _now_ms()) / 1000
            if 0 < left_s <= webhook_sending.LONGEST_RETRY_AFTER_S:  # more: the clock was set back meanwhile
                await asyncio.sleep(min(left_s, self._pace.orders_every_s))
                continue
            failure = await webhook_sending.send(self._session, self._webhook, message)
            if failure is None:
                break
            failed += 1
            waiting = await self._fail(waiting, failure)
            if self._is_given_up(waiting):
                return await self._set_aside(message, waiting, "gave_up", "", "")
        await self._webhook_states.delivered(*self._at, message.cursor)
        if failed:
            self._log.info("a webhook is delivered again", attempts=waiting.attempts + 1)
        return None

    async def _fail(self, waiting: Waiting, failure: webhook_sending.Failure) -> Waiting:
        """Store that an attempt failed, and when the next one is due."""
        self._on_failure(*self._at)
        now_ms, attempts = _now_ms(), waiting.attempts + 1
        wait_s = max(self._pace.waits(attempts), failure.retry_after_s)
        since_ms = waiting.since_ms or now_ms
        due_ms = now_ms + int(wait_s * 1000)
        if (give_up_ms := self._gives_up_at_ms(since_ms)) is not None:
            due_ms = min(due_ms, max(now_ms, give_up_ms))  # a last attempt, then
        made = Waiting(waiting.message_id, waiting.content, attempts, failure.error, since_ms, due_ms)
        await self._webhook_states.wait(*self._at, made)
        if failure.gone:
            await self._webhook_states.pause(*self._at, Pause("", failure.error, now_ms))
            self._log.warning("a webhook is disabled: its receiver answered 410", attempts=attempts)
        else:
            next_in_s = round((due_ms - now_ms) / 1000, 1)
            self._log.warning("a webhook was not delivered", attempts=attempts, why=failure.error, next_in_s=next_in_s)
        return made

    def _gives_up_at_ms(self, since_ms: int) -> int | None:
        bound_s = self._webhook.give_up_after_s
        return None if bound_s is None else since_ms + bound_s * 1000

    def _is_given_up(self, waiting: Waiting) -> bool:
        at_ms = self._gives_up_at_ms(waiting.since_ms)
        return at_ms is not None and at_ms <= _now_ms()

    async def _set_aside(self, message: Message, waiting: Waiting, cause: str, by: str, reason: str) -> Message | None:
        """List the message, continue after it, and return the message that reports it. A gap makes no further one."""
        now_ms, gap, kind = _now_ms(), None, message.content["type"]
        if message.cursor is not None:
            data: dict[str, Any] = {"after": (await self._webhook_states.state(*self._at)).cursor, "cause": cause}
            data["skipped"] = {"id": message.cursor, "type": kind}
            if by:
                data |= {"by": by, "reason": reason}
            gap = gap_message(self._webhook.tenant, f"skipped-{message.cursor}", timestamp(now_ms), **data)
        one = SetAside(message.id, message.content, waiting.error, cause, by, reason, now_ms)
        await self._webhook_states.set_aside(*self._at, one, message.cursor, gap)
        self._log.warning("a webhook goes on without a message", message=message.id, cause=cause, by=by or None)
        return gap


def _message_of(tenant: str, event: Event) -> Message:
    data = event.as_dict()
    content = {"type": event.fields["type"], "timestamp": data["at"], "data": {"tenant": tenant, **data}}
    return Message(f"{tenant}.{event.id}", content, event.at_ms, event.id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _wait_s(attempts: int) -> float:
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempts - 1, 20))
    return random.uniform(longest / 2, longest)  # noqa: S311  # nosec B311  # so that receivers do not get all messages at once
