"""Writes docs/reference/redis-servers.md from the results that are kept: `python -m tests.redis_family … --page`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kit import ROOT
from tests.redis_family.binaries import TESTED

PAGE = ROOT / "docs" / "reference" / "redis-servers.md"
RESULTS = Path(__file__).parent / "results.json"
"""Server → suite → how its last run went; and how the last run of the takeovers went."""
SUITES = ("store", "web", "distributed", "chaos")
TAKEOVER = "takeover"
COUNTS = ("passed", "failed", "skipped")

HEAD = """# Redis, Valkey and their versions

`make test-stores` runs these suites on three servers, and writes this page from their results:

- *store*: what is kept in Redis, on fakeredis, a single server, a Cluster and a primary under Sentinels
- *web*: the API, the admin API, the dashboard and monitoring, on the same
- *distributed*: two workers over Sentinel and Cluster: failovers, demotions, slots that are moved key by key under load
  and, with Valkey, by atomic slot migration (`CLUSTER MIGRATESLOTS`)
- *chaos*: faults of Redis, of processes and of clients, and the embedded server

The server comes first in `PATH`, so that tests, services, Clusters and Sentinels take it. `make test` runs these suites
on the Redis of `PATH`, which is 7.0 on Debian 12.

"""
TAKING_OVER = """
## Taking a data folder over

Twenty thousand users (logged in, logged out, suspended, terminated), their windows of limits and their events are
written by one server to the folder of `redis.url: embedded`, before and after a rewrite of its log. Another server
takes the folder over. *Equal* means that every key has the same value and ends at the same moment as before, also
after that server has rewritten the log. Redis 6.2, on which the service does not run, is given its keys by plain
commands.
"""


def kept() -> dict[str, Any]:
    """Return the results of the runs until now."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def page(results: Mapping[str, Any]) -> str:
    """Return the page of these results: what was not run is named as such."""
    runs = [
        (f"{server.split()[0]} {outcome['version']}", suite, outcome)
        for server in TESTED
        for suite in SUITES
        if (outcome := results.get(server, {}).get(suite)) is not None
    ]
    lines = ["| server | from | suite | passed | failed | skipped | run on |", "|---|---|---|---:|---:|---:|---|"]
    lines += [f"| {server} | {one['origin']} | {suite} | {_counts(one)} | {one['on']} |" for server, suite, one in runs]
    absent = [f"{suite} on {server}" for server in TESTED for suite in SUITES if suite not in results.get(server, {})]
    sections = ["\n".join(lines), *_run_with(runs)]
    if absent:
        sections.append("Not run, or not since the results are kept:\n\n" + "\n".join(f"- {one}" for one in absent))
    sections += [*_named("failed", runs, "failures"), *_named("passed", runs, "again"), *_skipped(runs)]
    text = HEAD + "\n\n".join(sections) + "\n"
    if (taken := results.get(TAKEOVER)) is not None:
        text += TAKING_OVER + f"\nRun on {taken['on']}, with {taken['with']}.\n\n" + "\n".join(_takeovers(taken)) + "\n"
    return text


def _counts(outcome: Mapping[str, Any]) -> str:
    return " | ".join(f"{outcome[word]:,}" for word in COUNTS)


Runs = Sequence[tuple[str, str, Mapping[str, Any]]]


def _run_with(runs: Runs) -> Iterator[str]:
    machines = sorted({(one["with"], one["processors"]) for _, _, one in runs})
    if machines:
        words = " and ".join(f"{used} on {count} processors" for used, count in machines)
        yield f"Run with {words}, as many tests at a time as there are processors."


def _named(word: str, runs: Runs, key: str) -> Iterator[str]:
    """The tests that failed, or that passed only when they were run again."""
    lines = [f"- {server}, {suite}: `{name}`" for server, suite, one in runs for name in one[key]]
    if lines:
        what = "failed:" if word == "failed" else "failed beside the others and passed when they were run again, alone:"
        yield f"These tests {what}\n\n" + "\n".join(lines)


def _skipped(runs: Runs) -> Iterator[str]:
    lines = [
        f"| {server} | {suite} | {count} | {reason} |"
        for server, suite, one in runs
        for reason, count in one["reasons"].items()
    ]
    if lines:
        head = ["| server | suite | tests | why they were skipped |", "|---|---|---:|---|"]
        yield "\n".join([*head, *lines])


def _takeovers(taken: Mapping[str, Any]) -> Iterator[str]:
    yield "| written by | taken over by | keys before | keys after | users before | users after | |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for one in taken["cases"]:
        before, after = one["before"], one.get("after")
        cells = [f"{before['keys']:,}", "", f"{sum(before['users'].values()):,}", "", "refused by name"]
        if after is not None:
            cells[1], cells[3] = f"{after['keys']:,}", f"{sum(after['users'].values()):,}"
            cells[4] = "equal" if after == before else "**not equal**"
        yield f"| {one['writer']} | {one['reader']} | {' | '.join(cells)} |"
