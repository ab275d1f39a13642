"""Clocks that differ: what is warned of, and when; timestamps of messages."""

from structlog.testing import capture_logs

from service.core.clocks import FORGIVEN_SKEW_S, WARN_EVERY_S, ClockDifferences, RevocationsAhead, forgiven_skew_ms
from service.core.webhooks import MAX_AHEAD_S, sent_at_s


def test_the_forgiven_skew_is_the_leeway_where_that_is_more() -> None:
    assert forgiven_skew_ms(0) == FORGIVEN_SKEW_S * 1000
    assert forgiven_skew_ms(4.9) == FORGIVEN_SKEW_S * 1000
    assert forgiven_skew_ms(7.25) == 7250


def test_a_difference_above_a_second_is_logged_once_a_minute_and_shown_until_it_is_gone() -> None:
    now = 0.0
    reported: list[float] = []
    differences = ClockDifferences(reported.append, clock=lambda: now)
    with capture_logs() as lines:
        for step in range(int(WARN_EVERY_S / 5) + 1):
            now = step * 5.0
            differences.update([("a:1", 0.4, 0.001), ("b:2", -1.5, 0.001)])
        assert differences.warnings() == ["The clock of Redis (b:2) is 1.5 s behind the clock of the service"]
        differences.update([("a:1", 0.4, 0.001), ("b:2", -0.5, 0.001)])
        assert differences.warnings() == []
    assert reported == [-1.5] * (int(WARN_EVERY_S / 5) + 1) + [-0.5], "the largest of all, with its sign"
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]
    assert lines[0]["seconds_ahead"] == {"b:2": -1.5}


def test_servers_that_differ_from_each_other_are_a_warning_although_each_is_close_to_the_service() -> None:
    differences = ClockDifferences()
    differences.update([("a:1", 0.8, 0.001), ("b:2", -0.7, 0.001), ("c:3", 0.0, 0.001)])
    assert differences.warnings() == ["The clock of Redis (a:1) is 1.5 s ahead of b:2's"]
    differences.update([("a:1", 0.8, 0.4), ("b:2", -0.7, 0.4)])
    assert differences.warnings() == [], "the round trips were slow"


def test_a_clock_that_jumps_is_logged_as_after_a_failover() -> None:
    differences = ClockDifferences()
    with capture_logs() as lines:
        for difference_s in (0.1, 0.2, -2.8):
            differences.update([("primary", difference_s, 0.001)])
    jumps = [line for line in lines if line["event"] == "the clock of redis jumped"]
    assert [(line["server"], line["seconds"]) for line in jumps] == [("primary", -3.0)]


def test_a_slow_round_trip_is_no_difference_between_clocks() -> None:
    differences = ClockDifferences()
    differences.update([("primary", 1.4, 0.9)])
    assert differences.warnings() == []


def test_no_message_is_signed_earlier_than_its_event_happened_nor_with_what_receivers_refuse() -> None:
    assert sent_at_s(1000.9, 0) == 1000
    assert sent_at_s(1000.9, 999_000) == 1000
    assert sent_at_s(1000.9, 1_000_950) == 1000, "in whole seconds"
    assert sent_at_s(1000.9, 1_003_500) == 1003
    assert sent_at_s(1000.0, (1000 + MAX_AHEAD_S) * 1000) == 1000 + MAX_AHEAD_S
    assert sent_at_s(1000.0, (1001 + MAX_AHEAD_S) * 1000) == 1000


def test_a_revocation_ahead_is_a_warning_until_it_is_over_or_refuses_nobody_for_a_while() -> None:
    now = [1000.0]
    ahead = RevocationsAhead(lambda: now[0])
    assert ahead.warnings() == []
    with capture_logs() as lines:
        ahead.note("acme", 12_000)
        ahead.note("acme", 12_000)
        ahead.note("globex", 1500)
    assert [(line["tenant"], line["until"]) for line in lines] == [
        ("acme", "1970-01-01T03:20:00.000Z"),
        ("globex", "1970-01-01T00:25:00.000Z"),
    ]
    assert [one.split()[1] for one in ahead.warnings()] == ["acme", "globex"]
    now[0] = 1501
    assert [one.split()[1] for one in ahead.warnings()] == ["acme"]
    now[0] = 1601
    assert ahead.warnings() == [], "it may have been lifted"
