"""The ways to Redis: a client for people, and links for the admissions; over whichever kind of deployment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from service.store.address import Address
from service.store.link import Link
from service.store.server_check import ServerCheck
from service.store.ways import ClusterWays, OneWay, Ways

PEOPLE_TIMEOUT_S = 1.0
"""What one command of a page, an act or the sweep may take, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for `rediss://`; None where the system's defaults hold."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """The two ways to one Redis. Nothing is connected yet, and nothing is ever sent twice."""

    client: Any
    """For people: pages, acts, the sweep. A redis-py client; its answers are typed as a union over all modes."""
    pool: ConnectionPool | None
    """Makes the connections of the admissions, which keep their own deadline; None on a Cluster."""
    sentinels: Sequence[Any] = ()
    """redis-py clients of the Sentinels, whom the pools ask where the master is."""
    node: str = "redis"
    """How messages name the server: its address, or what the Sentinels call the master."""
    cluster_url: str = ""
    """What to write in `redis.url` should a single server turn out to be a node of a Cluster."""

    @classmethod
    def by_url(cls, url: str, tls: TlsFiles, *, timeout_s: float = PEOPLE_TIMEOUT_S) -> "RedisAccess":
        """Whatever `redis.url` may say, except `embedded`.

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
        people = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        requests = {"socket_timeout": None, "socket_connect_timeout": None}
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            secure = {"ssl": True} if address.tls else {}
            return cls(RedisCluster(startup_nodes=nodes, **options | secure | people | address.options), None)
        sentinels: Sequence[Any] = ()
        if address.kind == "sentinel":
            own = {**options, **people, **address.sentinel_options, "ssl": address.tls}
            sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                address.nodes, sentinel_kwargs=own, **options, **address.options
            )
            sentinels = sentinel.sentinels
            pools: list[ConnectionPool] = [
                SentinelConnectionPool(  # type: ignore[no-untyped-call]
                    address.name, sentinel, ssl=address.tls, **options, **address.options, **timeouts
                )
                for timeouts in (people, requests)
            ]
        else:
            pools = [ConnectionPool.from_url(url, **options, **timeouts) for timeouts in (people, requests)]
        node = address.name or address.place
        place = "HOST:PORT" if node.startswith("/") else node
        cluster_url = f"redis{'s' if address.tls else ''}+cluster://{place}"
        return cls(Redis(connection_pool=pools[0]), pools[1], sentinels, node, cluster_url)

    @classmethod
    def in_process(cls) -> "RedisAccess":
        """fakeredis: where no server is to be had, and in unit tests. Nothing is kept."""
        import fakeredis  # takes a while to import, and is seldom needed

        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2)
        return cls(client=client, pool=client.connection_pool)

    def ways(
        self,
        *,
        timeout_s: float,
        on_change: Callable[[bool], None] = lambda up: None,
        check: ServerCheck | None = None,
    ) -> Ways:
        """The ways of the admissions.

        Args:
            timeout_s: how long a trip may take.
            on_change: told whenever Redis goes away or is back.
            check: asks every new connection whether the server can be used, and keeps what it finds.
        """
        check = check or ServerCheck()
        if self.pool is None:
            return ClusterWays(self.client, timeout_s=timeout_s, on_change=on_change, check=check)
        examine = partial(check.examine, node=self.node, cluster_url=self.cluster_url)
        return OneWay(Link(self.pool.make_connection, timeout_s=timeout_s, examine=examine, on_change=on_change))

    async def close(self) -> None:
        """Hang up."""
        if self.pool is None:
            await self.client.aclose()
            return
        await self.client.aclose(close_connection_pool=True)
        await self.pool.aclose()
        for sentinel in self.sentinels:
            await sentinel.aclose()
