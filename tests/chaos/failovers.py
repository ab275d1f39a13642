"""Failovers of Sentinel and Cluster under a steady load, each write counted: what was acknowledged, and what is there
afterwards. `make failovers` writes docs/reference/failovers.md.
"""

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import redis

from service.store.keyspace import keys_of
from tests.chaos.steady_load import RATE, TIMEOUT_S, SteadyLoad, Write, serving
from tests.deployments import Cluster, Node, Sentinels, redis_cluster, redis_sentinels
from tests.kit import ROOT, Service, wait_for

HEARD, BACK = "redis is away: answering without it", "redis is back"
"""What the log says when the breaker opens and closes."""


@dataclass
class Outcome:
    """What a failover came to."""

    event: str
    server: str
    sent: int
    answers: Counter[int]
    acknowledged: int
    lost: int
    """Acknowledged writes that are not there afterwards."""
    heard: float | None
    """Seconds from the event to the log's line that Redis is away; None where there was none."""
    after_heard: int | None
    """Writes that were sent once it was heard, and acknowledged before the new primary was used; None on a
    Cluster, which announces nothing.
    """
    away_s: float
    """The longest time, after the event, in which no write was acknowledged on the node that was hit."""


def play(
    event: str,
    server: str,
    service: Service,
    tenants: Sequence[str],
    strike: Callable[[], Any],
    records: Callable[[Sequence[Write]], list[str | None]],
    *,
    before_s: float,
    after_s: float,
    ends_ready: bool = True,
) -> Outcome:
    """One failover under load.

    Args:
        event: what is done, for the table.
        server: which server it is done to.
        service: under load.
        tenants: whose users write; the first one's node is hit.
        strike: does it.
        records: reads users' records from the deployment.
        before_s: how long the load runs before.
        after_s: how long the load runs after it.
        ends_ready: whether the service finds the new primary.
    """
    load = SteadyLoad(service, tenants)
    with load.on():
        wait_for(lambda: len(load.acknowledged()) > 50)
        time.sleep(before_s)
        began = time.time()
        strike()
        time.sleep(after_s)
    if ends_ready:
        wait_for(lambda: service.get("/readyz").status == 200, within_s=30)
    reported = load.acknowledged()
    there = records(reported)
    kept = ["s" if one.suspends else "o" for one in reported]
    lost = [one for one, record, status in zip(reported, there, kept, strict=True) if (record or "-")[0] != status]
    heard, back = _logged(service, HEARD, began), _logged(service, BACK, began)
    during = [one for one in reported if heard and heard < one.at and (not back or one.until < back)]
    hit = sorted(one.until for one in reported if one.tenant == tenants[0] and one.until > began)
    moments = [began, *hit, max(one.until for one in load.writes)]
    return Outcome(
        event,
        server,
        len(load.writes),
        Counter(one.status for one in load.writes),
        len(reported),
        len(lost),
        heard - began if heard else None,
        len(during) if len(tenants) == 1 else None,
        max(later - earlier for earlier, later in pairwise(moments)),
    )


def _logged(service: Service, event: str, since: float) -> float | None:
    """When the service's log first had this line after a moment."""
    for line in service.log_text.splitlines():
        if f'"{event}"' in line:
            at = datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
            if at >= since:
                return at
    return None


def under_sentinels(
    server: str,
    event: str,
    strike: Callable[[Sentinels], Any],
    *options: str,
    follows: bool = True,
    before_s: float = 1,
    after_s: float = 4,
) -> Outcome:
    """A primary with two replicas under three Sentinels.

    Args:
        server: which one, `Redis` or `Valkey`.
        event: for the table.
        strike: brings it about.
        options: of the servers.
        follows: whether `redis.url` names the Sentinels; else the primary alone, as a client that knows none.
        before_s: as for `play`.
        after_s: as for `play`.
    """
    with redis_sentinels(*options, replicas=2, server=server) as sentinels:
        url = sentinels.url if follows else f"redis://127.0.0.1:{sentinels.master.port}"

        def records(reported: Sequence[Write]) -> list[str | None]:
            keys = [keys_of(one.tenant).user(one.user) for one in reported]
            return list(sentinels.current().client.mget(keys))

        def strike_now() -> None:
            strike(sentinels)

        with serving(url, ["acme"]) as service:
            how: Any = {"before_s": before_s, "after_s": after_s, "ends_ready": follows}
            return play(event, server, service, ["acme"], strike_now, records, **how)


def on_a_cluster(
    server: str,
    event: str,
    strike: Callable[[Cluster], Any],
    *options: str,
    replicas: int = 1,
    before_s: float = 1,
    after_s: float = 5,
) -> Outcome:
    """Three primaries, each with a replica, and a tenant on each; the first one's is hit."""
    with redis_cluster(*options, replicas=replicas, server=server) as cluster:
        tenants = cluster.tenants()
        with serving(cluster.url, tenants) as service:

            def records(reported: Sequence[Write]) -> list[str | None]:
                alive = [one for one in cluster.nodes if one.process.poll() is None]
                client: Any = redis.RedisCluster("127.0.0.1", random.choice(alive).port, decode_responses=True)
                try:
                    pipeline = client.pipeline()
                    for one in reported:
                        pipeline.get(keys_of(one.tenant).user(one.user))
                    return list(pipeline.execute())
                finally:
                    client.close()

            def strike_now() -> None:
                strike(cluster)

            return play(event, server, service, tenants, strike_now, records, before_s=before_s, after_s=after_s)


def pause(nodes: Sequence[Node]) -> None:
    """All nodes answer nobody for 2.5 seconds."""
    for node in nodes:
        node.client.client_pause(2500)


def demote(cluster: Cluster) -> None:
    """A planned failover of the first primary: its replica asks for it."""
    replica = next(
        node
        for node in cluster.nodes[3:]
        if int(node.client.info("replication")["master_port"]) == cluster.nodes[0].port
    )
    replica.client.execute_command("CLUSTER FAILOVER")


MIN_REPLICAS = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
Played = Callable[[str], Outcome]
SENTINEL_EVENTS: dict[str, tuple[Callable[[Sentinels], Any], tuple[str, ...]]] = {
    "`SENTINEL FAILOVER`": (lambda s: s.fail_over(), ()),
    "`SENTINEL FAILOVER`, `min-replicas-to-write 1`": (lambda s: s.fail_over(), MIN_REPLICAS),
    "`SENTINEL FAILOVER … COORDINATED`": (lambda s: s.fail_over("COORDINATED"), ()),
    "the primary is killed (kill -9)": (lambda s: s.master.kill(), ()),
    "the primary is killed, `min-replicas-to-write 1`": (lambda s: s.master.kill(), MIN_REPLICAS),
    "the primary hangs (SIGSTOP)": (lambda s: s.master.signal(signal.SIGSTOP), ()),
}
CLUSTER_EVENTS: dict[str, Callable[[Cluster], Any]] = {
    "`CLUSTER FAILOVER`": demote,
    "a primary is killed (kill -9)": lambda c: c.nodes[0].kill(),
    "a primary hangs (SIGSTOP)": lambda c: c.nodes[0].signal(signal.SIGSTOP),
    "`CLIENT PAUSE 2500` on all nodes": lambda c: pause(c.nodes),
}
UNFOLLOWED: dict[str, tuple[Callable[[Sentinels], Any], tuple[str, ...]]] = {
    event: SENTINEL_EVENTS[event] for event in list(SENTINEL_EVENTS)[:3]
}
"""What is shown for a client that does not follow the Sentinels, too."""
VALKEY_ALONE = "`SENTINEL FAILOVER … COORDINATED`"
AFTER_S = {VALKEY_ALONE: 13.0}
"""How long the load goes on after it, where that is longer than usual: it may be given up late."""

PAGE = """# Failovers

What failovers cost, measured by `make failovers`: {rate} requests a second, each a write of a user of its own
(nine logouts to one suspension by an operator), `redis.timeout` is {timeout} s (as shipped), one worker.
Where the machine is shared with other work, the times are longer than the failover's own.

*Acknowledged* are answers of 200; *lost* are those of them that the deployment does not know of afterwards.
*Late* are writes that were sent once the service had heard the announcement of the failover, and acknowledged
before it used the new primary. *Heard* is the time from the event to the log's line that Redis is away, *away*
the longest time in which no write was acknowledged on the node that was hit; what is sent meanwhile is 503.

## One primary, two replicas, three Sentinels

`down-after-milliseconds` is 500, `failover-timeout` 3,000.

{sentinel}

- **A planned failover** (`SENTINEL FAILOVER`) promotes a replica and leaves the old primary running: it
  acknowledges writes for about ten seconds more, and drops them when it becomes a replica. A client that keeps
  its connection loses all of them. The service hears the announcement, which comes before the promotion, and
  closes its connections: it answers 503 until the promotion, and loses nothing. Other clients of the same Redis
  have to follow the Sentinels too.
- **`min-replicas-to-write 1`** makes the old primary refuse writes once its replicas have left it, after
  `min-replicas-max-lag` seconds: a client that heard nothing loses seconds instead of ten. It also bounds what
  a primary loses that is cut off from its replicas. It costs availability: with no replica in step, every write
  is 503.
- **`COORDINATED`** (Valkey 9) makes the primary stop taking writes, waits until the replica has them all, and
  then swaps their roles: nobody loses anything where it succeeds. It may give up under load
  (`-failover-abort-slave-timeout`); then the old primary goes on, and so does the service. It is no guarantee:
  on an overloaded machine acknowledged writes were lost in one run with a client that follows the Sentinels, and in
  one with a client that does not. Why is not known.
- **A primary that dies** loses what it had not yet replicated: usually nothing, at most the replication lag
  times the rate. Only waiting for replicas at each write would prevent that, and the service does not wait. It
  answers 503 from the death until a replica is promoted: `down-after-milliseconds`, and about a second more.
- **A primary that hangs** is as one that dies. When it goes on it is made a replica; the service does not go
  back to it.

### A client that does not follow the Sentinels

The same failovers, with `redis.url` naming the old primary alone, for 13 seconds after the event: what happens to every
client that keeps its connection.

{unfollowed}

## Three primaries, three replicas (Cluster)

`cluster-node-timeout` is 1,000. Each primary has one tenant, and the first primary is hit.

{cluster}

- **A planned failover** (`CLUSTER FAILOVER`, asked of the replica) loses nothing: the primary holds its clients
  until the replica has everything. `CLUSTER FAILOVER FORCE` and `TAKEOVER` do not ask it, and lose what a death
  loses.
- **A primary that dies** loses what it had not yet replicated. Until its replica is promoted its tenants are
  503. The other primaries answer CLUSTERDOWN for a while as well, unless `cluster-require-full-coverage no` is
  set.
- **Every node that was away is used again**, each by itself, within a quarter of a second of taking writes.
"""


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| event | server | sent | acknowledged | lost | late | heard s | away s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in outcomes:
        heard = "-" if one.heard is None else f"{one.heard:.2f}"
        late = "-" if one.after_heard is None else str(one.after_heard)
        lines.append(
            f"| {one.event} | {one.server} | {one.sent:,} | {one.acknowledged:,} | {one.lost:,} | {late} "
            f"| {heard} | {one.away_s:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    sentinel = [
        _told(under_sentinels(server, event, strike, *options, after_s=AFTER_S.get(event, 4.0)))
        for event, (strike, options) in SENTINEL_EVENTS.items()
        for server in ("Redis", "Valkey")
        if only in event and (event != VALKEY_ALONE or server == "Valkey")
    ]
    unfollowed = [
        _told(under_sentinels(server, event, strike, *options, follows=False, after_s=13))
        for event, (strike, options) in UNFOLLOWED.items()
        for server in ("Redis", "Valkey")
        if only in event and (event != VALKEY_ALONE or server == "Valkey")
    ]
    cluster = [
        _told(on_a_cluster(server, event, strike))
        for event, strike in CLUSTER_EVENTS.items()
        for server in ("Redis", "Valkey")
        if only in event
    ]
    if not only:
        tables = {"sentinel": table(sentinel), "unfollowed": table(unfollowed), "cluster": table(cluster)}
        reported = PAGE.format(rate=RATE, timeout=TIMEOUT_S, **tables)
        (ROOT / "docs" / "reference" / "failovers.md").write_text(reported)


def _told(outcome: Outcome) -> Outcome:
    sys.stderr.write(f"{outcome}\n")
    return outcome


if __name__ == "__main__":
    main()
