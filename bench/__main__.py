"""What a request costs, side by side on this machine: `make bench`.

Prints the median of interleaved rounds of the server's CPU microseconds per request (user and system, of the server's
processes only). That is steadier than requests per second, which depend on what else the machine does. The server has
the first core, the load and Redis the last.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import beside, gate, growth, load, peers, plot
from bench.rows import BASE, OURS, fresh_name, rows
from bench.servers import ADDRESSES, CORES, USERS, Row, cpu_s, in_turn, redis_beside, running
from bench.tokens import ALGORITHMS, Fresh, signer, verification_us

RESULTS = Path(__file__).parent / "results"
FULL = 64
"""Connections with which the trips to Redis are as full as they get."""
ATTEMPTS = 3
FEW = 0.25
"""Share of the requests where there are fewer connections: it takes about as long."""


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


def count_of(row: Row, requests: int) -> int:
    """How many requests this row is sent in each round."""
    if row.first:
        return min(requests, ADDRESSES)
    share = row.share if row.connections >= FULL else row.share * FEW
    return max(1000, int(requests * share))


class WrongAnswers(Exception):
    """A server answered otherwise than it has to: what was measured does not count."""


def measured(row: Row, redis_pid: int, redis_port: int, requests: int) -> Round:
    """Measure the row on an empty Redis, once more where an answer was wrong: a busy machine can hold Redis up."""
    for attempt in range(1, ATTEMPTS + 1):
        growth.flush(redis_port)
        try:
            return measure(row, redis_pid, requests)
        except (WrongAnswers, ConnectionError) as wrong:
            if attempt == ATTEMPTS:
                raise
            print(f"{row.name}: {wrong}; once more", file=sys.stderr)
    raise AssertionError("unreachable")


def measure(row: Row, redis_pid: int, requests: int) -> Round:
    """Start the server, warm it, compare one answer, and ask it so often."""
    count = count_of(row, requests)
    with running(row) as server:
        # Long enough that everything is compiled that a JIT is going to compile, and every address is known.
        warmed = load.run(server.port, row.requests, row.warm, status=200 if row.first else row.status)
        if row.holds not in (body := load.body_of(server.port, row.requests(0), row.status)):
            raise RuntimeError(f"{row.name}: {row.holds!r} is not in {body!r}")
        before, redis_before = cpu_s(*server.pids), cpu_s(redis_pid)
        connections = row.connections * row.workers
        outcome = load.run(
            server.port,
            row.requests,
            count,
            status=row.status,
            connections=connections,
            start=0 if row.first else row.warm,
        )
        cpu, redis_cpu = cpu_s(*server.pids) - before, cpu_s(redis_pid) - redis_before
    # While a row is warmed that is refused, some are admitted.
    wrong = outcome.wrong + (warmed.wrong if row.status == 200 else Counter())
    if wrong:
        raise WrongAnswers(f"{row.status} was expected; other answers: {dict(wrong)}")
    return Round(
        cpu / count * 1e6,
        redis_cpu / count * 1e6,
        count / outcome.seconds,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
    )


def redis_table(rounds: dict[str, list[Round]]) -> str:
    """What an admission costs Redis, beside Go's INCR, EXPIRE and GET in one pipeline; empty without these rows."""
    compared = [("one user, 64 to the service", OURS, peers.GO)]
    compared += [
        (f"{USERS:,} users in turn, {count} to the service", in_turn("Rollcall", count), in_turn(peers.GO, count))
        for count in (64, 4, 1)
    ]
    lines = []
    for name, ours, go in compared:
        if ours in rounds and go in rounds:
            pairs = [(one.redis_us, other.redis_us) for one, other in zip(rounds[ours], rounds[go], strict=True)]
            own, others = (median(each) for each in zip(*pairs, strict=True))
            ratio = median(_ratio(*pair) for pair in pairs)
            lines.append(f"| {name} | {own:.1f} | {others:.1f} | {ratio:.2f} |")
    head = ["| Redis CPU µs/request, connections | Rollcall | Go's pipeline | ratio |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *lines]) if lines else ""


def verification_table(rounds: dict[str, list[Round]], bare: dict[str, list[float]]) -> str:
    """What a token costs that the server has not seen, beside what `cryptography` alone spends on it."""
    lines = [
        "| fresh tokens | CPU µs/request | with a cached token | bare verification | to the sum of these two |",
        "|---|---:|---:|---:|---:|",
    ]
    for alg, own in bare.items():
        fresh, cached = rounds[fresh_name(alg)], rounds[OURS]
        whole = zip(fresh, cached, own, strict=True)
        ratio = median(one.cpu_us / (base.cpu_us + alone) for one, base, alone in whole)
        figures = [median(one.cpu_us for one in fresh), median(one.cpu_us for one in cached), median(own)]
        lines.append(f"| {alg} | {' | '.join(f'{one:.1f}' for one in figures)} | {ratio:.2f} |")
    return "\n".join(lines)


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


def options_of_the_command_line() -> argparse.Namespace:
    """Return what the command line asks for, with the defaults of `--quick` or of a whole run."""
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
    return options


def main() -> int:
    """Measure the rows that the command line asks for, print the tables, and after a whole run write them."""
    options = options_of_the_command_line()
    # Ended from outside, it ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.sched_setaffinity(0, {CORES[-1]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_pid, redis_port = stack.enter_context(redis_beside(folder))
        signers = [signer(alg) for alg in ALGORITHMS]
        found, left_out = rows(folder, redis_port, signers)
        chosen = chosen_of(found, options.only)
        for row in chosen:
            if isinstance(row.requests, Fresh):
                row.requests.prepare(row.warm + count_of(row, options.requests))
        names = {row.name for row in chosen}
        verified = [one for one in signers if {OURS, fresh_name(one.alg)} <= names]
        bare: dict[str, list[float]] = {one.alg: [] for one in verified}
        if options.beside:
            chosen = beside.with_older(chosen, *beside.unpack(options.beside, folder))
        rounds: dict[str, list[Round]] = {row.name: [] for row in chosen}
        for number in range(options.rounds):
            # There and back: neither of two neighbours is always the first.
            for row in chosen if number % 2 == 0 else reversed(chosen):
                rounds[row.name].append(measured(row, redis_pid, redis_port, options.requests))
            for one in verified:
                bare[one.alg].append(verification_us(one))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        results = summary(rounds)
        passages = None if options.only or options.quick else gate.measure(folder, redis_port)
        grown = (
            growth.measure(folder, redis_port, options.users)
            if options.users and not (options.only or options.quick)
            else None
        )
    tables = [table(results)]
    if bare:
        tables.append(verification_table(rounds, bare))
    if compared := redis_table(rounds):
        tables.append(compared)
    if left_out:
        tables.append("\n".join(f"Left out: {reason}." for reason in left_out))
    if options.beside:
        tables.append(beside.table(chosen, {one.name: one for one in results}, ratios(chosen, rounds)))
    if passages:
        tables.append(gate.table(passages))
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
