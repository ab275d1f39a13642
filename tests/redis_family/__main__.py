"""Runs the suites on each server of the Redis family, and writes docs/reference/redis-servers.md.

    python -m tests.redis_family FOLDER [--only "Redis 8.2"] [--suite store] [--page] [-- ARGUMENT OF PYTEST …]

FOLDER has the servers that `make test-stores` unpacks. Without options everything runs, which takes an hour or more on
two processors. A run may take a part: the results of each server and suite are kept in `results.json`, beside this
file, and the page is written from all that are kept.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.kit import ROOT
from tests.redis_family.binaries import OLDEST, TESTED, Binary, binaries
from tests.redis_family.page import PAGE, RESULTS, SUITES, TAKEOVER, kept, page

OF_FAILOVERS = [f"tests/chaos/{name}.py" for name in ("test_distributed", "test_failovers", "test_demotion")]
WHERE = {
    "store": ["tests/store"],
    "web": ["tests/web"],
    "distributed": OF_FAILOVERS,
    "chaos": ["tests/chaos", *(f"--ignore={path}" for path in OF_FAILOVERS)],
    TAKEOVER: ["tests/redis_family/test_takeover.py"],
}
ON_ALL_PROCESSORS = ("-n", "auto", "--maxprocesses", "8", "--dist", "loadgroup", "--no-loadscope-reorder")
AGAIN = ("--last-failed", "--last-failed-no-failures", "none", "--maxfail", "10")
"""What fails beside other tests is run once more, one test at a time, as `make test` does."""


@dataclass(frozen=True)
class Case:
    """A test that ran."""

    name: str
    outcome: str
    """`passed`, `failed` or `skipped`."""
    reason: str = ""
    """Why it was skipped."""
    takeover: str = ""
    """What a test of tests/redis_family recorded."""


def main() -> int:
    words, rest = sys.argv[1:], []
    if "--" in words:
        words, rest = words[: words.index("--")], words[words.index("--") + 1 :]
    options = _parser().parse_args(words)
    if options.page:
        PAGE.write_text(page(kept()))
        return 0
    folder = options.folder.absolute()
    found = binaries(folder)
    if missing := [name for name in (*TESTED, f"Redis {OLDEST}") if name not in found]:
        sys.stderr.write(f"there is no {', '.join(missing)} on this machine (Debian's redis-server is 7.0)\n")
        return 2
    everything = not (options.only or options.suite)
    failed = 0
    for suite in options.suite or SUITES:
        for name in options.only or TESTED:
            if suite != TAKEOVER:
                outcome = _on_server(found[name], WHERE[suite], rest)
                failed += _report(f"{name}: {suite}", outcome)
                _keep(rest, name, suite, outcome)
    if everything or TAKEOVER in (options.suite or ()):
        cases = _cases([*WHERE[TAKEOVER], *rest], {"REDIS_FAMILY": str(folder)})
        outcome = _outcome(cases, folder)
        outcome["cases"] = [json.loads(one.takeover) for one in cases if one.takeover]
        failed += _report(TAKEOVER, outcome)
        _keep(rest, TAKEOVER, "", outcome)
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.redis_family",
        epilog="What follows -- is passed on to pytest; the results of such a run are not kept.",
    )
    parser.add_argument("folder", type=Path, help="the servers that `make test-stores` has unpacked")
    parser.add_argument("--only", action="append", choices=TESTED, help="a server; all where none is named")
    parser.add_argument("--suite", action="append", choices=tuple(WHERE), help="a suite; all where none is named")
    parser.add_argument(
        "--page", action="store_true", help="run nothing, write the page from the results that are kept"
    )
    return parser


def _on_server(server: Binary, where: Sequence[str], rest: Sequence[str]) -> dict[str, Any]:
    """Run a suite with this server as the first of PATH, so that tests and services take it."""
    with tempfile.TemporaryDirectory(prefix="rollcall-stores-") as folder:
        (Path(folder) / "redis-server").symlink_to(server.path)
        environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        beside = _cases([*where, *ON_ALL_PROCESSORS, "-m", "not alone", *rest], environment)
        alone = _cases([*where, "-m", "alone", *rest], environment)
        outcome = _outcome([*beside, *alone], Path(folder))
    return {"version": server.version, "origin": server.origin, **outcome}


def _outcome(cases: Sequence[Case], folder: Path) -> dict[str, Any]:
    """The counts, the names of the tests that did not pass at first, and why others were skipped."""
    counts = Counter(one.outcome.removesuffix(" again") for one in cases)
    reasons = Counter(one.reason.replace(f"{folder}/redis-server", "the server") for one in cases if one.reason)
    return {
        **{word: counts[word] for word in ("passed", "failed", "skipped")},
        "failures": sorted(one.name for one in cases if one.outcome == "failed"),
        "again": sorted(one.name for one in cases if one.outcome == "passed again"),
        "reasons": dict(sorted(reasons.items())),
        "on": f"{datetime.now(UTC):%d %B %Y}".lstrip("0"),
        "with": f"Python {platform.python_version()} and redis-py {version('redis')}",
        "processors": len(os.sched_getaffinity(0)),
    }


def _report(name: str, outcome: Mapping[str, Any]) -> int:
    """Print how it went; returns how many tests failed."""
    counts = ", ".join(f"{outcome[word]} {word}" for word in ("passed", "failed", "skipped"))
    sys.stdout.write(f"{name}: {counts}\n")
    for word, names in (("failed", outcome["failures"]), ("passed when run again", outcome["again"])):
        sys.stdout.writelines(f"  {word}: {one}\n" for one in names)
    sys.stdout.flush()
    return int(outcome["failed"])


def _keep(rest: Sequence[str], name: str, suite: str, outcome: Mapping[str, Any]) -> None:
    """Add the outcome to those that are kept, and write the page; a run of a selection is not kept."""
    if rest:
        return
    results = kept()  # read again: another run may have written to it
    if suite:
        results.setdefault(name, {})[suite] = outcome
    else:
        results[name] = outcome
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))


def _cases(words: Sequence[str], environment: Mapping[str, str]) -> list[Case]:
    """Run pytest, and once more what failed; returns the tests."""
    with tempfile.TemporaryDirectory(prefix="rollcall-stores-") as folder:
        own = ["-o", f"cache_dir={folder}/cache", *words]
        cases = {one.name: one for one in _pytest(own, environment, Path(folder) / "report.xml")}
        if any(one.outcome == "failed" for one in cases.values()):
            one_by_one = [word for word in own if word not in ON_ALL_PROCESSORS]
            for one in _pytest([*one_by_one, *AGAIN], environment, Path(folder) / "again.xml"):
                cases[one.name] = (
                    Case(one.name, "passed again", takeover=one.takeover) if one.outcome == "passed" else one
                )
        return list(cases.values())


def _pytest(words: Sequence[str], environment: Mapping[str, str], report: Path) -> Iterator[Case]:
    command = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", f"--junitxml={report}", *words]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
    if code not in (0, 1, 5):  # 5: no test has the marker
        raise SystemExit(f"pytest did not finish: exit code {code}")
    for case in ElementTree.parse(report).iter("testcase"):
        yield read_case(case)


def read_case(case: ElementTree.Element) -> Case:
    """Read a test from pytest's report."""
    recorded = case.find(f"properties/property[@name='{TAKEOVER}']")
    skipped = case.find("skipped")
    failed = case.find("failure") is not None or case.find("error") is not None
    return Case(
        f"{case.get('file', '')}::{case.get('name', '')}",
        "failed" if failed else "passed" if skipped is None else "skipped",
        "" if skipped is None or failed else skipped.get("message", ""),
        "" if recorded is None else recorded.get("value", ""),
    )


if __name__ == "__main__":
    sys.exit(main())
