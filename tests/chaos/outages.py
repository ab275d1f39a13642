"""`make outages`: every fault under load, and kill -9 twenty times, told in docs/outages.md."""

import tempfile
from collections import Counter
from pathlib import Path

from service.store.link import FAILURES_TO_OPEN, PROBE_EVERY_S
from tests.chaos.faults import CLIENTS, FAULTS, TIMEOUT_S, Outcome, play
from tests.chaos.test_outages import kill_often
from tests.kit import ROOT

KILLS = 20
PAGE = """# Outages

What the service does while Redis is broken, measured by `make outages`: {clients} clients log out one user after the
other as fast as they are answered, `redis.timeout` is {timeout} s (as shipped), the fault lasts three seconds.
`tests/chaos` plays the same in `make test`, for shorter, and asserts that every request is answered 200 or 503 and that
nothing is lost.

A trip that fails is 503 for those who waited for it. After {failures} failures in a row the circuit breaker opens:
requests are answered at once, each limit by its `on_outage`, sessions by `sessions.on_outage` (here: `deny`), and every
{probe} s a probe asks Redis whether it takes writes again.

{faults}

*Noticed*: from the fault to the first 503. *Recovered*: from its end to the first logout that was acknowledged again.
*At first*: until the breaker is open; then *once open*. *Lost*: acknowledged logouts that Redis knows nothing of later.

## kill -9 of Redis at full load

{kills}

With `appendfsync always` nothing that was acknowledged is lost, whatever happens. With `everysec` (what
`redis.url: embedded` uses) a kill of the process costs nothing, for the kernel has what was written; a power cut costs
at most the last second.
"""


def table(outcomes: list[Outcome]) -> str:
    lines = [
        "| fault | sent | answered | noticed s | recovered s | p99 at first ms | p99 once open ms | lost |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for one in outcomes:
        noticed = "-" if one.noticed_s is None else f"{one.noticed_s:.2f}"
        recovered = "-" if one.recovered_s is None else f"{one.recovered_s:.2f}"
        opened = "-" if one.p99_once_open_ms is None else f"{one.p99_once_open_ms:.1f}"
        lines.append(
            f"| {one.fault} | {one.sent:,} | {_kinds(one.answers)} | {noticed} | {recovered} "
            f"| {one.p99_at_first_ms:.0f} | {opened} | {one.lost} |"
        )
    return "\n".join(lines)


def _kinds(answers: Counter[int]) -> str:
    return ", ".join(f"{status}: {many:,}" for status, many in sorted(answers.items()))


def kills() -> str:
    lines = [
        "| appendfsync | kills | acknowledged | lost | age of what was lost, at most s |",
        "|---|---:|---:|---:|---:|",
    ]
    for fsync in ("always", "everysec"):
        with tempfile.TemporaryDirectory() as folder:
            acknowledged, ages = kill_often(Path(folder), fsync, KILLS)
        oldest = f"{max(ages):.2f}" if ages else "-"
        lines.append(f"| {fsync} | {KILLS} | {acknowledged:,} | {len(ages)} | {oldest} |")
    return "\n".join(lines)


def main() -> None:
    outcomes = []
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(play(fault, Path(folder), before_s=0.5, during_s=3, after_s=0.5))
    told = PAGE.format(
        clients=CLIENTS,
        timeout=TIMEOUT_S,
        failures=FAILURES_TO_OPEN,
        probe=PROBE_EVERY_S,
        faults=table(outcomes),
        kills=kills(),
    )
    (ROOT / "docs" / "outages.md").write_text(told)


if __name__ == "__main__":
    main()
