"""What a request costs, side by side on this machine: `make bench`.

Server CPU microseconds per request (user + system, of the server's processes alone), in interleaved rounds, the
median told: steadier than requests per second, which depend on what else the machine does. The server has the first
core, the load and Redis the last.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import gate, growth, load, plot
from bench.servers import ADDRESSES, CORES, Row, cpu_s, redis_beside, rows, running

RESULTS = Path(__file__).parent / "results"
CONNECTIONS = 64
"""For each worker: as many wait at once whether there is one or two."""
WARM = ADDRESSES
"""Requests before a row is measured."""
NO_NGINX = "Nothing was measured through nginx: it is not on this machine."
BASE, OURS = "bare aiohttp, a constant", "Rollcall, /auth/status"


@dataclass
class Result:
    """Medians over the rounds."""

    name: str
    cpu_us: float
    redis_us: float
    per_second: float
    p50_us: float
    p99_us: float
    to_bare: float = 0
    to_ours: float = 0


@dataclass
class Round:
    """One round of one row."""

    cpu_us: float
    redis_us: float
    per_second: float
    p50_us: float
    p99_us: float


def measure(row: Row, redis_pid: int, count: int) -> Round:
    """Start the server, warm it, and ask it so often."""
    with running(row) as server:
        # Long enough that everything is compiled that a JIT is going to compile, and every address is known.
        load.run(server.port, row.requests, WARM, status=200 if row.first else row.status)
        count = min(count, ADDRESSES) if row.first else count
        before, redis_before = cpu_s(*server.pids), cpu_s(redis_pid)
        outcome = load.run(server.port, row.requests, count, status=row.status, connections=CONNECTIONS * row.workers)
        cpu, redis_cpu = cpu_s(*server.pids) - before, cpu_s(redis_pid) - redis_before
    if outcome.wrong:
        raise RuntimeError(f"{row.name}: {outcome.wrong} of {count} answers had another status than {row.status}")
    return Round(
        cpu / count * 1e6,
        redis_cpu / count * 1e6,
        count / outcome.seconds,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
    )


def summary(rounds: dict[str, list[Round]]) -> list[Result]:
    found = [
        Result(name, *(median(getattr(one, field) for one in own) for field in Round.__dataclass_fields__))
        for name, own in rounds.items()
    ]
    by_name = {result.name: result for result in found}
    for result in found:
        # Ratios of the same round, then their median: what the machine did meanwhile falls out.
        for field, other in (("to_bare", BASE), ("to_ours", OURS)):
            if other in by_name:
                pairs = zip(rounds[result.name], rounds[other], strict=True)
                setattr(result, field, median(one.cpu_us / base.cpu_us for one, base in pairs))
    return found


def table(results: list[Result]) -> str:
    lines = [
        "| | CPU µs/request | to bare aiohttp | to Rollcall | Redis µs/request | requests/s | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.name} | {one.cpu_us:.1f} | {one.to_bare:.2f} | {one.to_ours:.2f} | {one.redis_us:.1f} "
        f"| {one.per_second:,.0f} | {one.p50_us / 1000:.2f} | {one.p99_us / 1000:.2f} |"
        for one in results
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=15_000, help="of each row in each round")
    parser.add_argument("--only", default="", help="rows whose name holds this; bare aiohttp always")
    parser.add_argument("--users", type=int, default=1_000_000, help="the most known users; 0: no growth")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory() as folder, redis_beside(Path(folder)) as (redis_pid, redis_port):
        chosen = [one for one in rows(Path(folder), redis_port) if options.only in one.name or one.name == BASE]
        rounds: dict[str, list[Round]] = {row.name: [] for row in chosen}
        for number in range(options.rounds):
            for row in chosen:
                growth.flush(redis_port)
                rounds[row.name].append(measure(row, redis_pid, options.requests))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        results = summary(rounds)
        passages = gate.measure(Path(folder), redis_port)
        grown = growth.measure(Path(folder), redis_port, options.users) if options.users else None
    tables = [table(results), gate.table(passages) if passages else NO_NGINX, growth.table(grown) if grown else ""]
    text = "\n\n".join(filter(None, tables))
    print(text)
    if not options.only:
        where = f"{platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}"
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "table.md").write_text(f"{where}; medians of {options.rounds} interleaved rounds\n\n{text}\n")
        (RESULTS / "results.json").write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
        (RESULTS / "cpu.svg").write_text(plot.bars([(one.name, one.cpu_us) for one in results], "CPU µs per request"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
