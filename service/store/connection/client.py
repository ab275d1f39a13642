"""Access to Redis, over whichever kind of deployment: a redis-py client for everything but the admissions, which have
connections of their own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from service.core.tasks import LastRuns
from service.store.connection.calls import AWAY
from service.store.connection.cluster_topology import ClusterTopology
from service.store.connection.demotion import (
    PrimaryInUse,
    SentinelConnection,
    SentinelSSLConnection,
    connection_class_of,
    log_in,
)
from service.store.connection.endpoint import Endpoint, TlsFiles
from service.store.connection.pipeline import AdmissionPipeline
from service.store.connection.resp import InProcessConnection, RespConnection
from service.store.connection.router import ClusterRouter, NodeRouter, SingleNodeRouter
from service.store.connection.sentinels import Discovery, SentinelMonitor
from service.store.connection.server_check import ServerCheck
from service.store.connection.url import Address

__all__ = ["RedisAccess", "TlsFiles"]

PEOPLE_TIMEOUT_S = 1.0
"""The seconds that a command of a page, an action or the sweep may take by default."""


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """Access to one Redis. It connects when it is used, and never sends anything twice."""

    client: Any
    """A redis-py client for pages, actions and the sweep; its answers are typed as a union over all modes."""
    connect: Callable[[], Awaitable[RespConnection]] | None
    """Makes a connection for the admissions, which keep a deadline of their own; None on a Cluster."""
    primary: PrimaryInUse | None = None
    """All connections to the primary of a deployment that has one; None on a Cluster, and in this process."""
    sentinels: Discovery | None = None
    """Finds the primary."""
    monitor: SentinelMonitor | None = None
    """Closes the connections when the Sentinels announce a failover."""
    topology: ClusterTopology | None = None
    """Of a Cluster."""
    node: str = "redis"
    """The name of the server in messages: its address, or the master's name at the Sentinels."""
    cluster_url: str = ""
    """The `redis.url` to recommend if a single server turns out to be a node of a Cluster."""

    @classmethod
    def by_url(cls, url: str, tls: TlsFiles, *, timeout_s: float = PEOPLE_TIMEOUT_S) -> "RedisAccess":
        """Return access to the Redis that `redis.url` names, except `embedded`.

        Args:
            url: as in the configuration.
            tls: for `rediss://`.
            timeout_s: what one command of people's may take; the admissions keep a deadline of their own.
        """
        address = Address.parse(url)
        # Without driver_info=None redis-py reads its own version from disk, in the event loop, at every connection.
        options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "driver_info": None}
        if address.tls:
            files = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
            options |= {name: str(path) for name, path in files.items() if path is not None}
        options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        endpoint, primary = Endpoint.of(address, tls), PrimaryInUse()
        scheme = f"redis{'s' if address.tls else ''}+cluster"
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            secure = {"ssl": True} if address.tls else {}
            client = RedisCluster(startup_nodes=nodes, **options | secure | address.options)
            topology = ClusterTopology(endpoint, address.nodes, client.keyslot, timeout_s=timeout_s)
            return cls(client, None, topology=topology)
        if address.kind == "sentinel":
            own = {**options, **address.sentinel_options, "ssl": address.tls}
            sentinels = Discovery(address.nodes, address.name, own, options | address.options)
            options |= {"primary": primary, "redis_connect_func": sentinels.log_in}
            pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                address.name,
                sentinels,
                connection_class=SentinelSSLConnection if address.tls else SentinelConnection,
                **options,
                **address.options,
            )
            primary.add_pool(pool)
            return cls(
                Redis(connection_pool=pool),
                partial(sentinels.connect, endpoint),
                primary,
                sentinels,
                SentinelMonitor(sentinels, primary),
                node=address.name,
                cluster_url=f"{scheme}://HOST:PORT",
            )
        place = "HOST:PORT" if address.place.startswith("/") else address.place
        options |= {"primary": primary, "redis_connect_func": log_in} | address.options
        options["connection_class"] = connection_class_of(address.options)
        single = ConnectionPool(**options)
        primary.add_pool(single)
        return cls(
            Redis(connection_pool=single),
            endpoint.connect,
            primary,
            node=address.place,
            cluster_url=f"{scheme}://{place}",
        )

    @classmethod
    def in_process(cls) -> "RedisAccess":
        """Return fakeredis, for machines without a server and for unit tests. It keeps nothing."""
        import fakeredis  # takes a while to import, and is seldom needed

        client: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2)

        async def connect() -> RespConnection:
            connection = client.connection_pool.make_connection()
            await connection.connect()
            return InProcessConnection(connection)

        return cls(client, connect)

    def router(
        self,
        *,
        timeout_s: float,
        on_change: Callable[[bool], None] = lambda up: None,
        check: ServerCheck | None = None,
        runs: LastRuns | None = None,
    ) -> NodeRouter:
        """Return the router of the admissions.

        Args:
            timeout_s: how long a trip may take.
            on_change: is called whenever Redis goes away or is back.
            check: asks every new connection whether the server can be used, and keeps what it finds.
            runs: counts what fails in the router's background tasks.
        """
        check = check or ServerCheck()
        if self.topology is not None:
            return ClusterRouter(self.topology, timeout_s=timeout_s, on_change=on_change, check=check, runs=runs)
        assert self.connect is not None  # noqa: S101  # nosec B101  # only a Cluster has none
        examine = partial(check.examine, node=self.node, cluster_url=self.cluster_url)
        pipeline = AdmissionPipeline(
            self.connect,
            timeout_s=timeout_s,
            examine=examine,
            on_change=on_change,
            runs=runs,
        )
        if self.primary is not None:
            pipeline.follow(self.primary)
        return SingleNodeRouter(pipeline, self.primary, self.monitor, runs)

    async def close(self) -> None:
        """Hang up."""
        if self.topology is not None:
            # After a failure aclose would do nothing: initialize closes everything, or makes it closable again.
            with suppress(*AWAY):
                async with asyncio.timeout(PEOPLE_TIMEOUT_S):
                    await self.client.initialize()
            await self.client.aclose()
            return
        if self.primary is not None:
            await self.primary.close()
        await self.client.aclose(close_connection_pool=True)
        if self.sentinels is not None:
            for sentinel in self.sentinels.sentinels:
                await sentinel.aclose()
