"""Webhooks: each event of a tenant to each receiver, at least once and in order.

A webhook is worked by one worker at a time, by a lease, from a cursor that Redis keeps. A receiver that does not answer
2xx is asked again, with longer and longer waits, and holds up nobody but itself.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import aiohttp
import structlog

from service.core.errors import StoreUnavailable
from service.core.session_lists import EventFeeds, Gap
from service.core.tasks import end, keep_running, round_completed
from service.core.webhooks import Webhook, WebhookLedger, sent_at_s, signed

log = structlog.get_logger()

TIMEOUT_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
RENEW_EVERY_S = 4.0
AGAIN_S = 0.5
"""How long to wait after Redis failed, or after the subscription ended."""
LOOK_EVERY_S = 5.0
"""How often a worker that has not the lease asks for it."""


class Webhooks:
    """All that are configured.

    Args:
        hooks: their cursors and leases.
        feeds: what happens.
        waits: how long to wait before an attempt, by how many have failed.
    """

    def __init__(
        self, webhook_states: WebhookLedger, event_feeds: EventFeeds, waits: Callable[[int], float] | None = None
    ) -> None:
        self._webhook_states = webhook_states
        self._event_feeds = event_feeds
        self._waits = waits or _wait_s
        self._wanted: tuple[Webhook, ...] = ()
        self._changed = asyncio.Event()

    def follow(self, webhook_states: Collection[Webhook]) -> None:
        """Work these from now on."""
        self._wanted = tuple(webhook_states)
        self._changed.set()

    async def run_forever(self) -> None:
        """Work all of them, until cancelled."""
        tasks: dict[Webhook, asyncio.Task[None]] = {}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            try:
                while True:
                    self._changed.clear()
                    await end([tasks.pop(webhook) for webhook in tasks.keys() - set(self._wanted)])
                    for webhook in self._wanted:
                        if webhook not in tasks:
                            worker = _DeliveryWorker(
                                webhook, self._webhook_states, self._event_feeds, session, self._waits
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
    """One webhook, as one worker works it."""

    def __init__(
        self,
        webhook: Webhook,
        webhook_states: WebhookLedger,
        event_feeds: EventFeeds,
        session: aiohttp.ClientSession,
        waits: Callable[[int], float],
    ) -> None:
        self._webhook = webhook
        self._webhook_states = webhook_states
        self._event_feeds = event_feeds
        self._session = session
        self._waits = waits
        self._at = (webhook.tenant, webhook.name)
        self._log = log.bind(tenant=webhook.tenant, webhook=webhook.name)

    async def run_forever(self) -> None:
        """Tell whenever the lease is ours, until cancelled."""
        while True:
            held = True
            try:
                held = await self._webhook_states.hold(*self._at)
                if held:
                    await self._deliver_while_held()
            except StoreUnavailable as error:
                log.debug("a webhook waits for redis", reason=error.reason)
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
        """Tell what happens, from where the last worker was."""
        state = await self._webhook_states.state(*self._at)
        cursor = state.cursor or await self._webhook_states.begin(*self._at)
        async with self._event_feeds.follow(self._webhook.tenant, cursor) as subscription:
            async for item in subscription:
                if isinstance(item, Gap):
                    if item.dropped:  # the receiver was away for long: go on from the cursor
                        return
                    await self._deliver(f"gap-{item.after}", "gap", {"after": item.after})
                    continue
                if (kind := item.fields.get("type", "")) in self._webhook.types:
                    await self._deliver(item.id, kind, item.as_dict(), item.at_ms)
                await self._webhook_states.delivered(*self._at, item.id)

    async def _deliver(self, number: str, kind: str, data: dict[str, Any], at_ms: int = 0) -> None:
        """Send it until it arrives."""
        content = {"type": kind, "timestamp": data.get("at"), "data": {"tenant": self._webhook.tenant, **data}}
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
        attempts = 0
        while error := await self._send(f"{self._webhook.tenant}.{number}", body, at_ms):
            attempts += 1
            await self._webhook_states.failed(*self._at, attempts, error)
            wait_s = self._waits(attempts)
            self._log.warning("a webhook was not delivered", attempts=attempts, why=error, next_in_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)
        if attempts:
            self._log.info("a webhook is delivered again", attempts=attempts + 1)

    async def _send(self, message_id: str, body: bytes, at_ms: int) -> str:
        """Nothing where it arrived; else why not. A URL may hold a password, so none is told."""
        sent_s = sent_at_s(time.time(), at_ms)
        headers = {**signed(self._webhook.keys, message_id, sent_s, body), "content-type": "application/json"}
        try:
            async with self._session.post(
                self._webhook.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return "" if 200 <= answer.status < 300 else f"it answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: a host that is none
            return type(error).__name__


def _wait_s(attempts: int) -> float:
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempts - 1, 20))
    return random.uniform(longest / 2, longest)  # noqa: S311  # nosec B311  # receivers are not to be asked all at once
