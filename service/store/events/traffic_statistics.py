"""The charts' counts in Redis, of all workers, in buckets of ten seconds, for somewhat more than an hour."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from service.core.traffic_statistics import Activity, TrafficSample
from service.store.connection.calls import redis_call, run
from service.store.keyspace import TRAFFIC_TTL_S, keys_of

BUCKET_S = 10
SLOT_S = 600
"""The seconds that one key covers; the latest seven keys always cover an hour."""
HOUR_S = 3600
MOST_ADDRESSES = 1000
SAMPLE_EVERY_MS = 10_000
"""The interval of refusal events of a kind, over all workers: the capped stream is for transitions first."""
SHOWN_ADDRESSES = 20


class TrafficStatistics:
    """The counts of all workers together.

    Args:
        client: a redis-py client.
        clock: seconds since the epoch. The workers' own: a chart is not exact to the second.
    """

    def __init__(self, client: Redis, clock: Callable[[], float] = time.time) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._clock = clock

    @redis_call
    async def pour(self, tenant: str, sample: TrafficSample) -> None:
        """Add the counts of one worker; report the most frequent refusals as events, as a sample of all."""
        now_s = int(self._clock())
        bucket, slot, keys = now_s // BUCKET_S, now_s // SLOT_S, keys_of(tenant)
        traffic, refused = keys.traffic(slot), keys.refused(slot)
        pipeline = self._client.pipeline(transaction=False)
        totals = {"t": sample.transitions, "r": sample.refusals.total(), "s": sample.shadow.total()}
        for kind, many in totals.items():
            if many:
                pipeline.hincrby(traffic, f"{kind}{bucket}", many)
        for limit, many in sample.shadow.items():
            pipeline.hincrby(traffic, f"={limit}", many)
        pipeline.expire(traffic, TRAFFIC_TTL_S)
        if sample.refusals:
            by_client: Counter[str] = Counter()
            for one, many in sample.refusals.items():
                by_client[one.client or "others"] += many
            for client, many in by_client.items():
                pipeline.zincrby(refused, many, client)
            pipeline.zremrangebyrank(refused, 0, -MOST_ADDRESSES - 1)
            pipeline.expire(refused, TRAFFIC_TTL_S)
        await pipeline.execute()
        for kind, event in _samples(sample).items():
            fields = [part for pair in event.items() for part in pair]
            await run(self._client, "sample", [keys.sampled(kind), keys.events], [SAMPLE_EVERY_MS, *fields])

    @redis_call
    async def activity(self, tenant: str) -> Activity:
        """Return the charts of the last hour."""
        now_s = int(self._clock())
        keys, last = keys_of(tenant), now_s // BUCKET_S
        slots = range((now_s - HOUR_S) // SLOT_S, now_s // SLOT_S + 1)
        pipeline = self._client.pipeline(transaction=False)
        for slot in slots:
            pipeline.hgetall(keys.traffic(slot))
            pipeline.zrevrange(keys.refused(slot), 0, SHOWN_ADDRESSES - 1, withscores=True)
        answers = await pipeline.execute()
        buckets: Counter[str] = Counter()
        addresses: Counter[str] = Counter()
        for counts, refused in zip(answers[::2], answers[1::2], strict=True):
            buckets.update({name.decode(): int(many) for name, many in counts.items()})
            addresses.update({client.decode(): int(many) for client, many in refused})
        span = range(last - HOUR_S // BUCKET_S + 1, last + 1)
        series = {kind: [buckets[f"{kind}{bucket}"] for bucket in span] for kind in "trs"}
        return Activity(
            bucket_s=BUCKET_S,
            ends_s=(last + 1) * BUCKET_S,
            transitions=series["t"],
            refusals=series["r"],
            shadow=series["s"],
            addresses=addresses.most_common(SHOWN_ADDRESSES),
            shadow_limits={name[1:]: many for name, many in buckets.items() if name[0] == "="},
        )


def _samples(sample: TrafficSample) -> dict[str, dict[str, str]]:
    """Return events for the most frequent refusal, and for the shadow limit that would have refused most."""
    found = {}
    if sample.refusals:
        [(most, many)] = sample.refusals.most_common(1)
        found["refused"] = {"code": most.code, "operation": most.operation, "ip": most.client, "count": str(many)}
        found["refused"]["all"] = str(sample.refusals.total())
    if sample.shadow:
        [(limit, many)] = sample.shadow.most_common(1)
        found["shadow"] = {"limit": limit, "shadow": "true", "count": str(many), "all": str(sample.shadow.total())}
    return {kind: {"type": "refusal", **event} for kind, event in found.items()}
