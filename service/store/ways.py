"""Which link leads to a tenant: one for all, or on a Cluster that of the node with the tenant's slot."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import AskError, MovedError

from service.core.errors import StoreUnavailable
from service.store.failures import kind_of
from service.store.keyspace import keys_of
from service.store.link import Link
from service.store.reach import AWAY
from service.store.server_check import ServerCheck

log = structlog.get_logger()

REFRESH_EVERY_S = 0.25
"""How often the map of a Cluster's slots is asked for while a node does not answer."""


class Ways(Protocol):
    """How tenants are reached."""

    one_call: bool
    """Whether one script call may ask about several tenants."""

    @property
    def is_down(self) -> bool:
        """Whether nothing can be reached."""

    def link_to(self, tenant: str) -> Link:
        """The way to `tenant`. Raises StoreUnavailable where no node is known to have it."""

    def redirected(self, error: AskError) -> Link:
        """The way that a node points to; by MOVED for good, by ASK once."""

    async def open(self) -> None:
        """Connect at start, so that the first request need not. A Redis that is away is no error."""

    async def close(self) -> None:
        """Hang up."""


class OneWay:
    """All tenants over one link: a single server, or the master that Sentinels name."""

    one_call = True

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open."""
        return self._link.is_down

    def link_to(self, tenant: str) -> Link:
        """The one link."""
        return self._link

    def redirected(self, error: AskError) -> Link:
        """A node of a Cluster answered, and that is configured otherwise."""
        raise StoreUnavailable("this is a node of a Cluster: write redis+cluster:// in redis.url", kind_of(error))

    async def open(self) -> None:
        """Connect."""
        await self._link.open()

    async def close(self) -> None:
        """Hang up."""
        await self._link.close()


class ClusterWays:
    """A link for each master of a Cluster. redis-py keeps the map of slots; it is asked for anew when a node
    points elsewhere, and while one does not answer.
    """

    one_call = False

    def __init__(
        self,
        client: RedisCluster,
        *,
        timeout_s: float,
        check: ServerCheck,
        on_change: Callable[[bool], None] = lambda up: None,
    ) -> None:
        self._client = client
        self._check = check
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._links: dict[tuple[str, int], Link] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._told = True
        """Whether the Cluster told its slots when it was asked last."""

    @property
    def is_down(self) -> bool:
        """Whether no node answers, or none is known."""
        return all(link.is_down for link in self._links.values())

    def link_to(self, tenant: str) -> Link:
        """The link to the master that has the tenant's slot."""
        try:
            node: Any = self._client.get_node_from_key(keys_of(tenant).tag)
        except AWAY as error:
            self._refresh()
            reason = f"no node of the Cluster is known to have {tenant}: {error}"
            raise StoreUnavailable(reason, kind_of(error)) from error
        return self._link_at(node.host, int(node.port))

    def redirected(self, error: AskError) -> Link:
        """The link to the node that MOVED or ASK names."""
        if isinstance(error, MovedError):
            self._refresh()
        return self._link_at(error.host, int(error.port))

    async def open(self) -> None:
        """Ask for the map, and connect to every master."""
        await self._learn()
        await asyncio.gather(*(link.open() for link in list(self._links.values())))
        if self.is_down:
            self._on_change(False)
            self._refresh()

    async def close(self) -> None:
        """Hang up everywhere."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _link_at(self, host: str, port: int) -> Link:
        link = self._links.get((host, port))
        if link is None:
            make = self._maker(host, port)
            examine = partial(self._check.examine, node=f"{host}:{port}", cluster_url=None)
            link = Link(make, timeout_s=self._timeout_s, examine=examine, on_change=self._changed)
            self._links[host, port] = link
        return link

    def _maker(self, host: str, port: int) -> Callable[[], Any]:
        nodes: Any = self._client.nodes_manager
        node = ClusterNode(host, port, **nodes.connection_kwargs)
        own = {"socket_timeout": None, "socket_connect_timeout": None}  # the link keeps the deadline
        return lambda: node.connection_class(**node.connection_kwargs | own)

    def _changed(self, _: bool) -> None:
        up = not any(link.is_down for link in self._links.values())
        self._on_change(up)
        if not up:
            self._refresh()

    def _refresh(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._until_well())

    async def _until_well(self) -> None:
        while True:
            await self._learn()
            if not self.is_down and not any(link.is_down for link in self._links.values()):
                return
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _learn(self) -> None:
        """Take the map of slots as the Cluster tells it now; links to who is no master any more are given up."""
        nodes: Any = self._client.nodes_manager
        try:
            if self._links:
                await nodes.initialize()
            else:
                await self._client.initialize()  # the first time: what people's commands need to know too
        except AWAY as error:
            tell = log.warning if self._told else log.debug  # once until it does again: it is asked all the time
            tell("the cluster does not tell its slots", reason=f"{type(error).__name__}: {error}")
            self._told = False
            return
        self._told = True
        masters = {(one.host, int(one.port)) for one in self._client.get_primaries()}
        for host, port in masters:
            self._link_at(host, port)
        for address in set(self._links) - masters:
            await self._links.pop(address).close()
            self._check.forget(f"{address[0]}:{address[1]}")
