"""Counts of transitions and refusals in a worker, for the charts and for sampled events, until they go to Redis.

Bounded whatever clients send: past `MOST` addresses of a second the rest is counted without its address.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

MOST = 1000
"""The most addresses of a tenant that are counted one by one between two flushes."""


class Refused(NamedTuple):
    """A kind of refusal, from one address."""

    code: str
    operation: str
    client: str


@dataclass(slots=True)
class TrafficSample:
    """The counts of one tenant since the last flush."""

    transitions: int = 0
    refusals: Counter[Refused] = field(default_factory=Counter)
    shadow: Counter[str] = field(default_factory=Counter)
    """Shadow limit → how often it would have refused."""


class TrafficCounters:
    """Counts events by tenant."""

    def __init__(self) -> None:
        self._samples: dict[str, TrafficSample] = {}

    def transition(self, tenant: str, many: int = 1) -> None:
        """Count transitions."""
        if many:
            self._count_traffic(tenant).transitions += many

    def refusal(self, tenant: str, refused: Refused) -> None:
        """Count a request that was refused."""
        refusals = self._count_traffic(tenant).refusals
        if len(refusals) >= MOST and refused not in refusals:
            refused = Refused(refused.code, refused.operation, "")
        refusals[refused] += 1

    def shadow(self, tenant: str, limit: str) -> None:
        """Count a request that a shadow limit would have refused."""
        self._count_traffic(tenant).shadow[limit] += 1

    def take(self) -> dict[str, TrafficSample]:
        """Return all counts by tenant, and start from zero."""
        samples, self._samples = self._samples, {}
        return samples

    def _count_traffic(self, tenant: str) -> TrafficSample:
        sample = self._samples.get(tenant)
        if sample is None:
            sample = self._samples[tenant] = TrafficSample()
        return sample


@dataclass(frozen=True, slots=True)
class Activity:
    """The last hour of a tenant."""

    bucket_s: int
    """The length of a bucket in seconds."""
    ends_s: int
    """When the last bucket ends, in seconds since the epoch."""
    transitions: list[int]
    """The count of each bucket, the oldest first."""
    refusals: list[int]
    shadow: list[int]
    addresses: list[tuple[str, int]]
    """The addresses that were refused most, with their counts."""
    shadow_limits: dict[str, int]
    """Shadow limit → how often it would have refused."""
