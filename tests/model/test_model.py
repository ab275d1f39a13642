"""The service answers as the model does, whatever happens in whatever order. Planted bugs show that the test finds one.

`MODEL_EXAMPLES` says how many sequences are played (`make model`: half an hour of them).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.plain import SECOND, Asked, Rules
from tests.model.world import World

pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.timeout(7200)]
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "40"))
CHECKS = list(HealthCheck)

PLANTED = {
    "a refusal uses up quota": ("elseif not refused then charge", "else charge"),
    "one more is admitted": ("window.used >= limit.requests and", "window.used > limit.requests and"),
    "a suspended user flips back": ("['s']='denied'", "['s']='i'"),
    "an event is appended twice": (
        "write(record_key, indexes, user, record, from)\n  emit(",
        "write(record_key, indexes, user, record, from)\n"
        "  emit(indexes.events, { 'type', 'transition', 'user', user, 'from', NAMES[from], 'to', NAMES[to] }, {})\n"
        "  emit(",
    ),
    "a passive request counts": ("passive == ONE", "passive == 0"),
    "a later expiry is not kept": ("if later then record.expires = expires end", ""),
    "a logout passes through logged_in": (
        "  if to ~= from then\n    record.seen = now_ms\n",
        "  if to ~= from then\n    record.seen = now_ms\n    if to == 'o' and from ~= 'i' then\n"
        "      move(record_key, indexes, user, record, 'i', 'request', { by = 'user' })\n    end\n",
    ),
    "a late revocation takes an earlier one back": ("(held_s > before_s and not replace)", "false"),
    "a late restriction shortens an earlier one": ("held > until_ms", "false"),
    "a revocation covers no token of a clock that is ahead": (
        "math.floor((latest_ms + skew_ms) / 1000)",
        "math.floor(latest_ms / 1000)",
    ),
    "a restriction of one user is not looked at": ("if any and", "if false and"),
    "the sweep leaves a user in an index": (
        "call('ZREM', indexes[index], user)",
        "if index ~= 'o' then call('ZREM', indexes[index], user) end",
    ),
    "what a call has read is kept for the next": ("if record_count > 0 then records, record_count = {}, 0 end", ""),
    "the text of a record is kept for the next call": ("  read_count, first_read = 0, nil\n", ""),
}


@contextmanager
def world(planted: tuple[str, str] | None = None) -> Iterator[type[Machine]]:
    """A machine on a world of its own."""
    made = World(planted)
    try:
        yield type("Playing", (Machine,), {"world": made})
    finally:
        made.close()


def test_the_service_judges_every_request_by_the_clock_of_the_test() -> None:
    """A request that is new, that is like an earlier one, and that is known; before and after a step of the clock."""
    with world() as machine:
        now = machine.world.begin(Rules({}), remembers=False)

        def codes(operation: str, lives_s: int) -> set[str]:
            asked = Asked(operation, "acme", "alice", "10.0.0.1", "good", now + lives_s * SECOND)
            return {machine.world.request(asked).code for _ in range(6)}

        for operation in ("status", "verify", "logout"):
            assert codes(operation, 3600) == {""}
        machine.world.set_clock(now + 7200 * SECOND)
        for operation in ("status", "verify", "logout"):
            assert codes(operation, 3600) == {"EXPIRED_USER_TOKEN"}
            assert codes(operation, 9000) == {""}


def test_any_sequence_is_answered_as_the_model_answers_it() -> None:
    with world() as machine:
        how = settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=CHECKS,
            report_multiple_bugs=False,
        )
        run_state_machine_as_test(machine, settings=how)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    how = settings(
        max_examples=300,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # found is enough: it need not be made small
        suppress_health_check=CHECKS,
    )
    with world(PLANTED[bug]) as machine, pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(machine, settings=how)
