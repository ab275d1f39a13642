"""The router: finds the pipeline to a tenant's node, one for all or, on a Cluster, that of the tenant's slot."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog
from redis.exceptions import AskError, MovedError

from service.core.errors import StoreUnavailable
from service.core.tasks import LastRuns, end, keep_running, round_completed, run_to_end
from service.store.connection.calls import note_failure
from service.store.connection.cluster_topology import ClusterTopology, NodeAddress
from service.store.connection.demotion import PrimaryInUse
from service.store.connection.failures import kind_of
from service.store.connection.pipeline import AdmissionPipeline
from service.store.connection.sentinels import SentinelMonitor
from service.store.connection.server_check import ServerCheck
from service.store.keyspace import keys_of

log = structlog.get_logger()

REFRESH_EVERY_S = 0.25
"""How often a Cluster is asked for its map of slots while a node does not answer, in seconds."""
WATCH_EVERY_S = 0.5
"""How often a server is asked whether it is still a primary, in seconds."""


class NodeRouter(Protocol):
    """Finds the pipeline to a tenant."""

    one_call: bool
    """Whether one call may have questions of several tenants."""

    @property
    def is_down(self) -> bool:
        """Whether no node can be reached."""

    def pipeline_to(self, tenant: str) -> AdmissionPipeline:
        """Return the pipeline to `tenant`. Raises StoreUnavailable if no node is known to have it."""

    def redirected(self, error: AskError) -> AdmissionPipeline:
        """Return the pipeline that a node redirects to: by MOVED for good, by ASK once."""

    async def not_writable(self) -> Sequence[str] | None:
        """Ask every primary whether it takes writes. Return the names of those that do not; None: none does."""

    async def open(self) -> None:
        """Connect at start, so that the first request need not. A Redis that is away is no error."""

    async def close(self) -> None:
        """Hang up."""


class SingleNodeRouter:
    """One pipeline for all tenants: to a single server, or to the primary that Sentinels name.

    Args:
        pipeline: leads there.
        primary: all connections to it; None for a server inside this process.
        sentinels: announce failovers; None for a single server.
        runs: counts what fails in the background tasks.
    """

    one_call = True

    def __init__(
        self,
        pipeline: AdmissionPipeline,
        primary: PrimaryInUse | None = None,
        sentinels: SentinelMonitor | None = None,
        runs: LastRuns | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._primary = primary
        self._sentinels = sentinels
        self._runs = runs
        self._watching: list[asyncio.Task[None]] = []

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open."""
        return self._pipeline.is_down

    def pipeline_to(self, tenant: str) -> AdmissionPipeline:
        """Return the one pipeline."""
        return self._pipeline

    def redirected(self, error: AskError) -> AdmissionPipeline:
        """A node of a Cluster answered, and that is configured otherwise."""
        raise StoreUnavailable("this is a node of a Cluster: write redis+cluster:// in redis.url", kind_of(error))

    async def not_writable(self) -> Sequence[str] | None:
        """Ask the one primary."""
        return () if await self._pipeline.takes_writes() else None

    async def open(self) -> None:
        """Connect, and from now on notice when another server becomes the primary."""
        if self._sentinels is not None:
            self._watching.append(
                asyncio.create_task(keep_running("sentinels", self._sentinels.run_forever, self._runs))
            )
            await self._sentinels.wait_until_subscribed()
        await self._pipeline.open()
        if self._primary is not None:
            self._watching.append(asyncio.create_task(keep_running("primary", self._watch_role, self._runs)))

    async def _watch_role(self) -> None:
        """Notice a demotion that no command meets: a replica answers reads and subscriptions, too."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if (error := await self._pipeline.check_role()) is not None:
                note_failure(error)
            round_completed()

    async def close(self) -> None:
        """Hang up."""
        await end(self._watching)
        await self._pipeline.close()


class ClusterRouter:
    """A pipeline for each primary of a Cluster. It asks for the map of slots again when a node redirects, and while
    one does not answer.
    """

    one_call = False

    def __init__(
        self,
        topology: ClusterTopology,
        *,
        timeout_s: float,
        check: ServerCheck,
        on_change: Callable[[bool], None] = lambda up: None,
        runs: LastRuns | None = None,
    ) -> None:
        self._topology = topology
        self._check = check
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._runs = runs
        self._pipelines: dict[NodeAddress, AdmissionPipeline] = {}
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether no node answers, or none is known."""
        return all(pipeline.is_down for pipeline in self._pipelines.values())

    def pipeline_to(self, tenant: str) -> AdmissionPipeline:
        """Return the pipeline to the primary that has the tenant's slot."""
        try:
            return self._pipeline_at(self._topology.owner_of(keys_of(tenant).tag))
        except StoreUnavailable:
            self._refresh()
            raise

    def redirected(self, error: AskError) -> AdmissionPipeline:
        """Return the pipeline to the node that MOVED or ASK names."""
        if isinstance(error, MovedError):
            self._refresh()
        return self._pipeline_at((error.host, int(error.port)))

    async def not_writable(self) -> Sequence[str] | None:
        """Ask every primary, each by a key of a slot that it owns."""
        pipelines = {address: self._pipeline_at(address) for address in sorted(self._topology.primaries)}
        answers = await asyncio.gather(*(pipeline.takes_writes() for pipeline in pipelines.values()))
        if not any(answers):
            return None
        return [f"{host}:{port}" for (host, port), writes in zip(pipelines, answers, strict=True) if not writes]

    async def open(self) -> None:
        """Ask for the map, and connect to every primary."""
        await self._learn()
        await asyncio.gather(*(pipeline.open() for pipeline in list(self._pipelines.values())))
        if self.is_down:
            self._on_change(False)
            self._refresh()

    async def close(self) -> None:
        """Close all connections."""
        if self._refreshing is not None:
            await end([self._refreshing])
        await asyncio.gather(*(pipeline.close() for pipeline in self._pipelines.values()))

    def _pipeline_at(self, address: NodeAddress) -> AdmissionPipeline:
        pipeline = self._pipelines.get(address)
        if pipeline is None:
            pipeline = self._pipelines[address] = AdmissionPipeline(
                self._topology.endpoint_of(address).connect,
                timeout_s=self._timeout_s,
                examine=partial(self._check.examine, node=f"{address[0]}:{address[1]}", cluster_url=None),
                on_change=self._changed,
                probe_key=partial(self._topology.probe_key, address),
                runs=self._runs,
            )
        return pipeline

    def _changed(self, _: bool) -> None:
        up = not any(pipeline.is_down for pipeline in self._pipelines.values())
        self._on_change(up)
        if not up:
            self._refresh()

    def _refresh(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(run_to_end("cluster map", self._until_well, self._runs))

    async def _until_well(self) -> None:
        while True:
            await self._learn()
            if self._topology.failure is not None:
                note_failure(self._topology.failure)
            if not self.is_down and not any(pipeline.is_down for pipeline in self._pipelines.values()):
                self._on_change(True)  # the node that was down may have left the map, and reports nothing any more
                return
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _learn(self) -> None:
        """Read the Cluster's map of slots; close the pipelines to nodes that are no primaries any more."""
        if not await self._topology.refresh(
            [address for address, pipeline in self._pipelines.items() if pipeline.is_down]
        ):
            return
        for address in self._topology.primaries:
            self._pipeline_at(address)
        for address in set(self._pipelines) - self._topology.primaries:
            await self._pipelines.pop(address).close()
            self._check.forget(f"{address[0]}:{address[1]}")
