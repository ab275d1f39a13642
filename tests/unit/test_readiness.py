"""What /readyz reports is collected when it is asked for."""

from service.core.readiness import Readiness


def test_a_source_is_read_at_each_question() -> None:
    readiness, slow = Readiness(), [True]
    readiness.add_warning(lambda: ["the clock differs by 3 s"] if slow[0] else [])
    readiness.add_blocker(list)
    assert (readiness.warnings(), readiness.blockers()) == (["the clock differs by 3 s"], [])
    slow[0] = False
    assert readiness.warnings() == []


def test_a_blocker_is_no_warning() -> None:
    readiness = Readiness()
    readiness.add_blocker(lambda: ["the right to ZADD is missing"])
    assert (readiness.warnings(), readiness.blockers()) == ([], ["the right to ZADD is missing"])
