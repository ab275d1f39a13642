"""Whatever happens to Redis: every request is answered, a logout that was acknowledged is kept, and it is well again by
itself. `make outages` plays the same for longer, and writes docs/reference/outages.md.
"""

import os
import time
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, Asked, Fault, Load, broken_deployment, lost, play
from tests.kit import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.alone]
KILLS = int(os.environ.get("KILLS", "3"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name)
def test_a_fault_under_load_loses_nothing_that_was_acknowledged_and_is_recovered_from(
    fault: Fault, tmp_path: Path
) -> None:
    outcome = play(fault, tmp_path, before_s=0.1, during_s=1.0, after_s=0.2)
    assert set(outcome.answers) <= {200, 503}, "every request is answered"
    assert outcome.lost == 0
    assert (503 in outcome.answers) == (fault.name not in UNNOTICED)


UNNOTICED = ("FUNCTION FLUSH", "slow: an answer takes 100 ms")
"""What no request fails for."""


def kill_often(folder: Path, fsync: str, times: int) -> tuple[int, list[float]]:
    """Kill -9 of Redis at full load, so often. Returns how many logouts were acknowledged, and of those that were lost
    how long before the kill they were, in seconds.
    """
    acknowledged, ages = 0, []
    with broken_deployment(folder, fsync) as (service, server, _):
        for _ in range(times):
            server.client.flushall()
            with Load().on(service) as load:
                wait_for(lambda load=load: load.count(200) > 300)  # type: ignore[misc]  # bound to this round
                killed_at = time.time()
                server.kill()
            server.start()
            wait_for(lambda: service.get("/readyz").status == 200)
            reported = load.acknowledged()
            acknowledged += len(reported)
            ages += [killed_at - _answered_at(one) for one in lost(server, reported)]
    return acknowledged, ages


def _answered_at(one: Asked) -> float:
    return one.at + one.took_s


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_kill_9_of_redis_at_full_load_costs_what_its_persistence_says(fsync: str, tmp_path: Path) -> None:
    acknowledged, ages = kill_often(tmp_path, fsync, KILLS)
    assert acknowledged > 300 * KILLS
    if fsync == "always":
        assert ages == []
    assert max(ages, default=0) <= 1.5, "the last second, and the time that the kernel needed"
