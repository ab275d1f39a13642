"""The map from slots to the primaries of a Cluster, as the Cluster itself reports it (CLUSTER SLOTS)."""

import asyncio
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import structlog

from service.core.errors import StoreUnavailable
from service.store.connection.endpoint import Endpoint
from service.store.connection.failures import reason_of
from service.store.keyspace import cluster_probe

log = structlog.get_logger()

SLOTS = 16384
NodeAddress = tuple[str, int]
"""Host and port of a node."""


class ClusterTopology:
    """The map from slots to primaries.

    redis-py keeps a map of its own for its client, but has no public name to refresh it by.

    Args:
        endpoint: how nodes are logged in to; its host and port do not matter.
        seeds: nodes to ask before any other is known.
        slot_of: returns the slot of a key.
        timeout_s: how long one node may take to answer.
    """

    def __init__(
        self, endpoint: Endpoint, seeds: Iterable[NodeAddress], slot_of: Callable[[str], int], *, timeout_s: float
    ) -> None:
        self._endpoint = endpoint
        self._slot_of = slot_of
        self._timeout_s = timeout_s
        self._seeds = tuple(seeds)
        self._owners: list[NodeAddress | None] = [None] * SLOTS
        self._probe_keys: dict[NodeAddress, str] = {}
        self._silent = False
        """Whether no node reported the map when they were last asked."""
        self.failure: Exception | None = None
        """Why none did."""
        self.primaries: frozenset[NodeAddress] = frozenset()
        """The nodes that own slots."""

    def owner_of(self, key: str) -> NodeAddress:
        """Return the primary that owns the key's slot.

        Raises:
            StoreUnavailable: no node is known to own it.
        """
        owner = self._owners[self._slot_of(key)]
        if owner is None:
            raise StoreUnavailable("no node of the Cluster is known to own the slot")
        return owner

    def probe_key(self, address: NodeAddress) -> str:
        """Return a key of a slot that this node owns; where it owns none, a key that it answers MOVED to."""
        key = self._probe_keys.get(address)
        if key is None or self._owners[self._slot_of(key)] != address:
            # As many attempts as find a node's only slot with a probability of 99.8 %; most find one of theirs at once.
            keys = map(cluster_probe, range(6 * SLOTS if address in self.primaries else 1))
            key = next((one for one in keys if self._owners[self._slot_of(one)] == address), cluster_probe(0))
            self._probe_keys[address] = key
        return key

    def endpoint_of(self, address: NodeAddress) -> Endpoint:
        """Return how a node is connected to."""
        return self._endpoint.at(*address)

    async def refresh(self, last: Collection[NodeAddress] = ()) -> bool:
        """Ask the nodes one after the other until one reports the map. Returns whether one did.

        Args:
            last: nodes to ask last, since they do not answer now.
        """
        nodes = sorted({*self._seeds, *self.primaries}, key=lambda one: (one in last, random.random()))  # noqa: S311  # nosec B311
        for node in nodes:
            try:
                self.take(node, await self._slots_reported_by(node))
            except Exception as error:  # of any kind: an answer that is no map is no answer
                self.failure = error
                continue
            self._silent, self.failure = False, None
            return True
        write = log.debug if self._silent else log.warning  # once until it does again: it is asked all the time
        write(
            "the cluster does not tell its slots",
            reason="no node is known" if self.failure is None else reason_of(self.failure),
        )
        self._silent = True
        return False

    async def _slots_reported_by(self, node: NodeAddress) -> list[Any]:
        async with asyncio.timeout(self._timeout_s):
            connection = await self.endpoint_of(node).connect()
            try:
                [reported] = await connection.round_trip([("CLUSTER", "SLOTS")], math.inf)
            finally:
                await connection.hang_up()
        if isinstance(reported, Exception):
            raise reported
        return list(reported)

    def take(self, asked: NodeAddress, slots: Sequence[Any]) -> None:
        """Take the answer of a node to CLUSTER SLOTS. Raises ValueError where it knows of none."""
        owners: list[NodeAddress | None] = [None] * SLOTS
        if not slots:
            raise ValueError("this node knows of no slots")
        for first, last, primary, *_ in slots:
            host = primary[0].decode() if primary[0] else asked[0]  # a node may not know how it is reached
            owners[first : last + 1] = [(host, int(primary[1]))] * (last + 1 - first)
        self._owners = owners
        self.primaries = frozenset(filter(None, owners))
