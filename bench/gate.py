"""What the gate costs a proxied API: requests through nginx, configured as in `examples/`, with it and without it.

The upstream answers a constant, so what is added is all that there is. nginx and Rollcall share the first core, the
load, Redis and the upstream the last.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench import load
from bench.servers import CORES, HUGE, ROOT, ROUTES, STACKS, TRUSTING, asking, constant, free_port, process, rollcall

EXAMPLE = ROOT / "examples" / "nginx"
ROUNDS = 5
LOADS = ((64, 12_000), (1, 2_000))
"""Connections, and requests of each round: all that goes through, and one at a time."""
GATES = ("without the gate", "with the gate")


@dataclass
class Passage:
    """Medians of one way through nginx at one load."""

    gate: str
    connections: int
    per_second: float
    p50_us: float
    p99_us: float


@contextmanager
def nginx(folder: Path, gate: str, rollcall_port: int, upstream_port: int) -> Iterator[int]:
    """The example's nginx; without the gate it is the same but for the line that asks. Yields its port."""
    port = free_port()
    own = folder / f"nginx{port}"
    shutil.copytree(EXAMPLE, own)
    text = (own / "nginx.conf").read_text().replace("/tmp/rollcall-example-nginx", f"{own}/own")
    text = text.replace("http {", "http {\n    keepalive_requests 1000000;  # the load does not reconnect\n", 1)
    for example, ours in {8000: port, 8080: rollcall_port, 9000: upstream_port}.items():
        text = re.sub(rf"127\.0\.0\.1:{example}\b", f"127.0.0.1:{ours}", text)
    if gate == GATES[0]:
        text = text.replace("auth_request /_rollcall;", "")
        text = text.replace("http://$admitted_to", "http://api")  # without Rollcall, no upstream is admitted by name
    (own / "nginx.conf").write_text(text)
    # One process: it is pinned before it begins.
    command = ["nginx", "-p", str(own), "-c", "nginx.conf", "-g", "daemon off; master_process off;"]
    with process(command, port, {CORES[0]}):
        yield port


@contextmanager
def upstream() -> Iterator[int]:
    """An API that answers a constant, on the load's core; yields its port."""
    port = free_port()
    with process([sys.executable, str(STACKS / "floor.py"), str(port)], port, {CORES[-1]}):
        yield port


def measure(folder: Path, redis_port: int) -> list[Passage] | None:
    """Both ways in interleaved rounds; None where nginx is not on this machine."""
    if shutil.which("nginx") is None:
        return None
    raw = constant(asking("/api/things/7"))
    found: dict[tuple[str, int], list[load.Outcome]] = {}
    with ExitStack() as stack:
        enter = stack.enter_context
        scratch = Path(enter(TemporaryDirectory(prefix="rc-", dir="/tmp")))  # short paths, outside every home directory
        behind, gate = enter(upstream()), free_port()
        command = rollcall(folder, "gate", redis_port, limits={"verify": HUGE}, routes=ROUTES, port=gate, **TRUSTING)
        enter(process(command, gate, {CORES[0]}))
        ways = {name: enter(nginx(scratch, name, gate, behind)) for name in GATES}
        for port in ways.values():
            load.run(port, raw, 2000)
        for _ in range(ROUNDS):
            for connections, count in LOADS:
                for name, port in ways.items():
                    outcome = load.run(port, raw, count, connections=connections)
                    if outcome.wrong:
                        raise RuntimeError(f"{name}: of {count} answers, by status: {dict(outcome.wrong)}")
                    found.setdefault((name, connections), []).append(outcome)
    return [_summary(name, connections, rounds) for (name, connections), rounds in found.items()]


def _summary(name: str, connections: int, rounds: list[load.Outcome]) -> Passage:
    at = partial(_percentile, rounds)
    return Passage(name, connections, median(one.requests / one.seconds for one in rounds), at(0.5), at(0.99))


def _percentile(rounds: list[load.Outcome], share: float) -> float:
    return median(one.percentile(share) for one in rounds)


def table(passages: list[Passage]) -> str:
    lines = [
        "| through nginx | connections | requests/s | p50 ms | p99 ms | added at p50 | added at p99 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    bare = {one.connections: one for one in passages if one.gate == GATES[0]}
    for one in passages:
        base = bare[one.connections]
        added = [(one.p50_us - base.p50_us) / 1000, (one.p99_us - base.p99_us) / 1000]
        latencies = ["", ""] if one is base else [f"{value:.2f} ms" for value in added]
        lines.append(
            f"| {one.gate} | {one.connections} | {one.per_second:,.0f} | {one.p50_us / 1000:.2f} "
            f"| {one.p99_us / 1000:.2f} | {latencies[0]} | {latencies[1]} |"
        )
    return "\n".join(lines)
