"""`make outages`: every fault under load, and kill -9 twenty times, measured for docs/reference/outages.md."""

import tempfile
from collections import Counter
from pathlib import Path

from service.store.connection.pipeline import FAILURES_TO_OPEN, PROBE_EVERY_S
from tests.chaos.faults import CLIENTS, FAULTS, TIMEOUT_S, Outcome, play
from tests.chaos.test_outages import kill_often
from tests.kit import ROOT

KILLS = 20
PAGE = """# Outages

This page shows what the service does while Redis is broken. `make outages` measures it and writes the page: {clients}
clients log out one user after another as fast as the service answers, `redis.timeout` is {timeout} s (as shipped), the
fault lasts three seconds. `make test` plays the same faults for a shorter time (`tests/chaos`) and asserts that every
answer is 200 or 503 and that nothing is lost. [When Redis is away](../explanation/outages.md) explains the behaviour.

A round trip that fails is 503 for all requests in it. After {failures} failures in a row the circuit breaker opens: the
service answers at once, by `on_outage` of each limit and by `sessions.on_outage` (here: `deny`). Every {probe} s a
probe checks whether Redis takes writes again.

{faults}

*Noticed*: from the fault to the first 503. *Recovered*: from the end of the fault to the first acknowledged logout.
*At first*: until the breaker is open; then *once open*. *Lost*: acknowledged logouts that Redis does not have later.

## kill -9 of Redis at full load

{kills}

With `appendfsync always` nothing that was acknowledged is lost, whatever happens. With `everysec`, which
`redis.url: embedded` uses, a kill of the process loses nothing, because the kernel has what was written. A power cut
loses at most the last second.
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
    reported = PAGE.format(
        clients=CLIENTS,
        timeout=TIMEOUT_S,
        failures=FAILURES_TO_OPEN,
        probe=PROBE_EVERY_S,
        faults=table(outcomes),
        kills=kills(),
    )
    (ROOT / "docs" / "reference" / "outages.md").write_text(reported)


if __name__ == "__main__":
    main()
