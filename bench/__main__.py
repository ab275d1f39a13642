"""What a request costs, side by side on this machine: `make bench`.

Server CPU microseconds per request (user + system, of the server's processes alone), in interleaved rounds, the
median told: steadier than requests per second, which depend on what else the machine does. The server has the first
core, the load and Redis the last.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import beside, gate, growth, load, plot
from bench.servers import ADDRESSES, CORES, Row, cpu_s, redis_beside, rows, running

RESULTS = Path(__file__).parent / "results"
FULL = 64
"""Connections with which the trips to Redis are as full as they get."""
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
        if row.holds not in (body := load.body_of(server.port, row.requests(0), row.status)):
            raise RuntimeError(f"{row.name}: {row.holds!r} is not in {body!r}")
        count = min(count, ADDRESSES) if row.first else count
        count = max(1000, count // 4) if row.connections < FULL else count  # as long as the others take
        before, redis_before = cpu_s(*server.pids), cpu_s(redis_pid)
        connections = row.connections * row.workers
        outcome = load.run(server.port, row.requests, count, status=row.status, connections=connections)
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


def _ratio(over: float, under: float) -> float:
    return over / under if under else float("nan")


def ratios(rows: list[Row], rounds: dict[str, list[Round]]) -> dict[str, tuple[float, float]]:
    """For each row of an older commit: the present code's CPU and Redis's CPU, to those of that commit."""
    found = {}
    for row in (row for row in rows if row.name_before):
        pairs = list(zip(rounds[row.name_before], rounds[row.name], strict=True))
        cpu = median(_ratio(now.cpu_us, before.cpu_us) for now, before in pairs)
        found[row.name] = cpu, median(_ratio(now.redis_us, before.redis_us) for now, before in pairs)
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


def chosen_of(found: list[Row], only: list[str]) -> list[Row]:
    return [row for row in found if not only or row.name == BASE or any(part in row.name for part in only)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="7, or 3 with --quick")
    parser.add_argument("--requests", type=int, help="of each row in each round: 15000, or 4000 with --quick")
    parser.add_argument(
        "--only", action="append", default=[], help="rows whose name holds this (may be repeated); bare aiohttp always"
    )
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of 4,000 requests, nginx and growth left out"
    )
    parser.add_argument("--users", type=int, default=1_000_000, help="the most known users; 0: no growth")
    parser.add_argument(
        "--beside", metavar="COMMIT", help="also each Rollcall row of this older commit, in the same rounds"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.requests = options.requests or (4_000 if options.quick else 15_000)
    # Ended from outside, it ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.sched_setaffinity(0, {CORES[-1]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_pid, redis_port = stack.enter_context(redis_beside(folder))
        chosen = chosen_of(rows(folder, redis_port), options.only)
        if options.beside:
            chosen = beside.with_older(chosen, *beside.unpack(options.beside, folder))
        rounds: dict[str, list[Round]] = {row.name: [] for row in chosen}
        for number in range(options.rounds):
            # There and back: neither of two neighbours is always the first.
            for row in chosen if number % 2 == 0 else reversed(chosen):
                growth.flush(redis_port)
                rounds[row.name].append(measure(row, redis_pid, options.requests))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        results = summary(rounds)
        passages = None if options.only or options.quick else gate.measure(folder, redis_port)
        grown = (
            growth.measure(folder, redis_port, options.users)
            if options.users and not (options.only or options.quick)
            else None
        )
    tables = [table(results)]
    if options.beside:
        tables.append(beside.table(chosen, {one.name: one for one in results}, ratios(chosen, rounds)))
    if not options.only and not options.quick:
        tables.append(gate.table(passages) if passages else NO_NGINX)
    if grown:
        tables.append(growth.table(grown))
    text = "\n\n".join(tables)
    print(text)
    if not (options.only or options.quick or options.beside):
        where = f"{platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}"
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "table.md").write_text(f"{where}; medians of {options.rounds} interleaved rounds\n\n{text}\n")
        (RESULTS / "results.json").write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
        (RESULTS / "cpu.svg").write_text(plot.bars([(one.name, one.cpu_us) for one in results], "CPU µs per request"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
