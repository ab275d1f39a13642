"""Repeated refusals are logged once a second, with their number."""

from structlog.testing import capture_logs

from service.web.api.client_address import AddressProblem
from service.web.monitoring.address_problems import MAX_PEERS, AddressWarnings
from service.web.monitoring.log_throttling import MOST, MOST_ADDRESSES, OTHERS, LogThrottle


def test_each_address_is_logged_once_with_its_count() -> None:
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


def test_of_many_addresses_the_rest_share_a_line() -> None:
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


def test_the_first_refusal_of_its_kind_and_address_in_a_second_has_a_line() -> None:
    throttle = LogThrottle()
    kinds = [("status", "INVALID_USER_TOKEN"), ("status", "TOO_MANY_REQUESTS"), ("verify", "INVALID_USER_TOKEN")]
    for _ in range(2):
        assert all(throttle.is_first_refusal(*kind, "10.0.0.1") for kind in kinds)
        assert all(throttle.is_first_refusal(*kind, "10.0.0.2") for kind in kinds)
        assert not any(throttle.is_first_refusal(*kind, "10.0.0.1") for kind in kinds)
        throttle.flush()


def test_at_most_1024_addresses_are_logged_in_a_second() -> None:
    throttle = LogThrottle()
    clients = [str(number) for number in range(3 * MOST_ADDRESSES)]
    assert sum(throttle.is_first_refusal("status", "X", client) for client in clients) == MOST_ADDRESSES == 1024
    for client in clients:
        throttle.count("refused again", "status", client, "X")
    with capture_logs() as lines:
        throttle.flush()
    assert len(lines) == MOST + 1
    assert (lines[0]["client"], lines[0]["times"]) == (OTHERS, 2 * MOST_ADDRESSES)
