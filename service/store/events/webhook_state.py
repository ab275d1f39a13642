"""Webhooks in Redis: the position of each, the message that waits, operators' orders, and the delivering worker."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis

from service.core.webhooks import Message, Orders, Pause, SetAside, Skip, Waiting, WebhookState
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of
from service.store.leases import Leases

MOST_SET_ASIDE = 50
"""The most messages set aside that each webhook lists."""
_NOTHING_WAITS: Mapping[str, str | int] = {
    "attempts": 0,
    "error": "",
    "since": 0,
    "next": 0,
    "message_id": "",
    "message": "",
    "skip": "",
}
_ORDERS = ("paused", "skip", "message_id", "message", "attempts", "error", "since", "next")


class RedisWebhookStates:
    """The states and leases of webhooks, for one worker.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._leases = Leases(client)

    async def hold(self, tenant: str, webhook: str) -> bool:
        """Take or keep the lease."""
        return await self._leases.hold(keys_of(tenant).webhook_lease(webhook))

    async def release(self, tenant: str, webhook: str) -> None:
        """Release the lease."""
        await self._leases.release(keys_of(tenant).webhook_lease(webhook))

    @redis_call
    async def state(self, tenant: str, webhook: str) -> WebhookState:
        """Return the position and the state of a webhook."""
        found = await self._client.hgetall(keys_of(tenant).webhook(webhook))
        fields = {name.decode(): value.decode() for name, value in found.items()}
        orders = _orders(fields)
        gap = _read(fields, "gap")
        return WebhookState(
            fields.get("cursor"),
            orders.paused,
            orders.waiting,
            orders.skip,
            None if gap is None else Message(**gap),
            tuple(SetAside(**one) for one in _read(fields, "aside") or ()),
        )

    @redis_call
    async def take_up(self, tenant: str, webhook: str) -> WebhookState:
        """Return the state of a webhook that this worker delivers from now on; a new one begins at the newest event."""
        state = await self.state(tenant, webhook)
        if state.cursor is not None:
            await self._keep(tenant, webhook, {"cursor": state.cursor})  # it may still run out: see `_keep`
            return state
        entries = await self._client.xrevrange(keys_of(tenant).events, count=1)
        cursor = entries[0][0].decode() if entries else "0-0"
        await self._keep(tenant, webhook, {"cursor": cursor})
        return await self.state(tenant, webhook)

    @redis_call
    async def orders(self, tenant: str, webhook: str) -> Orders:
        """Return what applies to the next attempt."""
        found = await self._client.hmget(keys_of(tenant).webhook(webhook), _ORDERS)
        return _orders({name: value.decode() for name, value in zip(_ORDERS, found, strict=True) if value is not None})

    @redis_call
    async def wait(self, tenant: str, webhook: str, waiting: Waiting) -> None:
        """Store the message that waits, with the state of its delivery."""
        fields: dict[str, str | int] = {
            "message_id": waiting.message_id,
            "message": _text(waiting.content),
            "attempts": waiting.attempts,
            "error": waiting.error,
            "since": waiting.since_ms,
            "next": waiting.next_ms,
        }
        await self._keep(tenant, webhook, fields)

    @redis_call
    async def delivered(self, tenant: str, webhook: str, cursor: str | None) -> None:
        """Note that a message arrived, and with it everything up to `cursor` (None: the cursor stays)."""
        moved: dict[str, str | int] = {"gap": ""} if cursor is None else {"gap": "", "cursor": cursor}
        await self._keep(tenant, webhook, {**_NOTHING_WAITS, **moved})

    @redis_call
    async def set_aside(
        self, tenant: str, webhook: str, one: SetAside, cursor: str | None, gap: Message | None
    ) -> None:
        """List a message that is not delivered, and continue after it."""
        [listed] = await self._client.hmget(keys_of(tenant).webhook(webhook), ["aside"])
        aside = [asdict(one), *(json.loads(listed) if listed else ())][:MOST_SET_ASIDE]
        fields = {"aside": _text(aside), "gap": "" if gap is None else _text(asdict(gap))}
        if cursor is not None:
            fields["cursor"] = cursor
        await self._keep(tenant, webhook, {**_NOTHING_WAITS, **fields})

    @redis_call
    async def pause(self, tenant: str, webhook: str, pause: Pause) -> bool:
        """Send nothing until it is resumed. Returns whether that is new."""
        if (await self.orders(tenant, webhook)).paused is not None:
            return False
        await self._keep(tenant, webhook, {"paused": _text(asdict(pause))})
        return True

    @redis_call
    async def resume(self, tenant: str, webhook: str) -> bool:
        """Send again, the message that waits at once. Returns whether the webhook was paused."""
        was_paused = (await self.orders(tenant, webhook)).paused is not None
        await self._keep(tenant, webhook, {"paused": "", "since": 0, "next": 0})
        return was_paused

    @redis_call
    async def skip(self, tenant: str, webhook: str, skip: Skip) -> None:
        """Go on without a message, if it still waits."""
        await self._keep(tenant, webhook, {"skip": _text(asdict(skip))})

    async def _keep(self, tenant: str, webhook: str, fields: Mapping[str, str | int]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        keys = keys_of(tenant)
        pipeline.hset(keys.webhook(webhook), mapping=dict(fields))
        pipeline.persist(keys.webhook(webhook))  # an earlier version let it run out
        pipeline.zadd(keys.webhook_states, {webhook: int(time.time() * 1000)})
        await pipeline.execute()


def _orders(fields: Mapping[str, str]) -> Orders:
    paused, skip = _read(fields, "paused"), _read(fields, "skip")
    waiting = None
    if fields.get("message_id"):
        waiting = Waiting(
            fields["message_id"],
            _read(fields, "message") or {},
            int(fields.get("attempts", 0)),
            fields.get("error", ""),
            int(fields.get("since", 0)),
            int(fields.get("next", 0)),
        )
    return Orders(
        None if paused is None else Pause(**paused),
        None if skip is None else Skip(**skip),
        waiting,
    )


def _read(fields: Mapping[str, str], name: str) -> Any:
    text = fields.get(name)
    return json.loads(text) if text else None


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
