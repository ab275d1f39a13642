"""Refusals that repeat are told once a second, with their number."""

from structlog.testing import capture_logs

from service.web.monitoring.log_throttling import MOST, LogThrottle


def test_each_address_is_told_once_with_its_count() -> None:
    repeats = LogThrottle()
    for _ in range(3):
        repeats.count("refused again", "logout", "10.0.0.1")
    repeats.count("answered without redis", "status", "10.0.0.2")
    with capture_logs() as lines:
        repeats.flush()
        repeats.flush()
    assert [(line["event"], line["operation"], line["client"], line["times"]) for line in lines] == [
        ("refused again", "logout", "10.0.0.1", 3),
        ("answered without redis", "status", "10.0.0.2", 1),
    ]


def test_of_many_addresses_the_rest_is_told_together() -> None:
    repeats = LogThrottle()
    for number in range(MOST + 7):
        repeats.count("refused again", "logout", str(number))
    with capture_logs() as lines:
        repeats.flush()
    assert len(lines) == MOST + 1
    assert (lines[-1]["clients"], lines[-1]["times"]) == (7, 7)
