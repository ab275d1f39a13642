"""Refusals that repeat are told once a second, with their number."""

from structlog.testing import capture_logs

from service.web.api.client_address import AddressProblem
from service.web.monitoring.address_problems import MAX_PEERS, AddressWarnings
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


def test_an_unused_forwarded_address_is_a_warning_once_a_minute_with_the_peer_and_a_count() -> None:
    now_s = [0.0]
    warnings = AddressWarnings(lambda: now_s[0])

    def written() -> list[tuple[str, str, int]]:
        with capture_logs() as lines:
            warnings.flush()
        return [(line["problem"], line["peer"], line["requests"]) for line in lines]

    warnings.report(AddressProblem.MALFORMED, "10.0.0.1")
    assert written() == [("malformed", "10.0.0.1", 1)]
    for _ in range(5):
        warnings.report(AddressProblem.MALFORMED, "10.0.0.1")
        warnings.report(AddressProblem.ABSENT, "10.0.0.1")
    now_s[0] = 59.0
    assert written() == [("absent", "10.0.0.1", 5)]
    now_s[0] = 61.0
    assert written() == [("malformed", "10.0.0.1", 5)]
    now_s[0] = 200.0
    assert written() == []


def test_beyond_a_hundred_peers_the_rest_is_counted_together() -> None:
    warnings = AddressWarnings(lambda: 0.0)
    for number in range(MAX_PEERS + 7):
        warnings.report(AddressProblem.UNTRUSTED_PEER, f"peer-{number}")
    with capture_logs() as lines:
        warnings.flush()
    assert len(lines) == MAX_PEERS + 1
    assert (lines[-1]["peer"], lines[-1]["requests"]) == ("others", 7)
