"""Which keys an admission sends: those that it will probably take, and all of them where that was not enough."""

import time
from collections.abc import Sequence

import pytest

from service.core.admission import Question
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.store.admissions.batcher import SMALL_BATCH, Admissions
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import keys_of
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, ask_about, now_ms

BY = Author("root")
LIMIT = Limit("some", Per.IP, 100, 3600)
SOON_MS = now_ms() + HOUR_MS


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each call of `admit` had."""
    numbers: list[int] = []
    commands = Admissions.commands

    def seen(self: Admissions, batch: Sequence[object]) -> object:
        made = commands(self, batch)  # type: ignore[arg-type]
        numbers.extend(int(command[2]) for _, of in made for command in of if command[0] == "FCALL")
        return made

    monkeypatch.setattr(Admissions, "commands", seen)
    return numbers


ALL, NO_INDEXES, LEAST = 13, 4, 3
"""How many keys a question about a user and one limit has: all, without the indexes, without the user's rules, too."""


async def test_a_user_at_rest_is_asked_about_with_three_keys(admissions: Admissions, sent: list[int]) -> None:
    for used in (1, 2, 3):
        answer = await admissions.ask(ask_about("alice", limits=[LIMIT], expires_ms=SOON_MS))
        assert [one.used for one in answer.limit_states] == [used]
        assert answer.session is not None
        assert answer.session.status is Status.LOGGED_IN
    assert sent == [ALL - 1, LEAST, LEAST], "the first writes the record, and so it takes the indexes"


async def test_a_change_of_another_worker_is_seen_at_once_and_charged_once(
    admissions: Admissions, access: RedisAccess, sent: list[int]
) -> None:
    await admissions.ask(ask_about("alice", limits=[LIMIT], expires_ms=SOON_MS))
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY)
    sent.clear()
    answer = await admissions.ask(ask_about("alice", limits=[LIMIT], expires_ms=SOON_MS))
    assert answer.came_from is Status.LOGGED_OUT
    assert answer.session is not None
    assert answer.session.status is Status.LOGGED_IN
    assert [one.used for one in answer.limit_states] == [2]
    assert sent == [LEAST, ALL], "nothing was done at first"
    moves = (await Events(access.client).history("acme", "alice", most=9)).events
    assert len(moves) == 3, "logged in, logged out, logged in: each once"


async def test_a_user_whom_an_operator_suspended_is_refused_without_a_second_round_trip(
    admissions: Admissions, access: RedisAccess, sent: list[int]
) -> None:
    await admissions.ask(ask_about("alice", expires_ms=SOON_MS))
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, BY)
    sent.clear()
    answer = await admissions.ask(ask_about("alice", expires_ms=SOON_MS))
    assert answer.session is not None
    assert answer.session.status is Status.SUSPENDED
    assert len(sent) == 1


@pytest.mark.parametrize("kind", ["a restriction", "a revocation"])
async def test_what_an_operator_set_for_a_user_holds_for_the_next_request(
    admissions: Admissions, access: RedisAccess, sent: list[int], kind: str
) -> None:
    def asked(user: str) -> Question:
        return ask_about(user, limits=[LIMIT], expires_ms=SOON_MS, capabilities=("pay",), issued_s=time.time() - 60)

    actions = RedisOperatorActions(access.client)
    for user in ("alice", "bob"):
        await admissions.ask(asked(user))
    if kind == "a restriction":
        await actions.restrict("acme", "alice", "pay", BY)
    else:
        await actions.revoke("acme", "alice", BY)
    sent.clear()
    for used in (3, 5):
        answer = await admissions.ask(asked("alice"))
        assert (answer.restricted == "pay") is (kind == "a restriction")
        assert answer.revoked is (kind == "a revocation")
        assert [one.used for one in answer.limit_states] == [used], "charged once"
        other = await admissions.ask(asked("bob"))
        assert (other.restricted, other.revoked) == (None, False)
    assert sent == [LEAST, ALL, *[NO_INDEXES] * 3], "the first one met the rules; the others expect them"


async def test_a_user_whom_redis_saw_last_before_seen_every_is_written_whatever_the_service_expects(
    admissions: Admissions, access: RedisAccess, sent: list[int]
) -> None:
    asked, key = ask_about("alice", limits=[LIMIT], expires_ms=SOON_MS), keys_of("acme").user("alice")
    await admissions.ask(asked)
    long_ago_ms = now_ms() - admissions.rules.seen_every_ms - 1000
    await access.client.set(key, f"i_ {long_ago_ms} {long_ago_ms} {SOON_MS}")
    sent.clear()
    answer = await admissions.ask(asked)
    assert answer.session is not None
    assert answer.session.seen_ms is not None
    assert answer.session.seen_ms > long_ago_ms
    assert (await access.client.get(key)).split()[2] == str(answer.session.seen_ms).encode()
    assert [one.used for one in answer.limit_states] == [2]
    assert sent == [LEAST, ALL]


async def test_a_batch_asks_again_only_about_whom_it_lacked_keys_for(
    admissions: Admissions, access: RedisAccess
) -> None:
    for user in ("alice", "bob", "carol"):
        await admissions.ask(ask_about(user, limits=[LIMIT], expires_ms=SOON_MS))
    await RedisOperatorActions(access.client).act("acme", ["bob"], Cause.OPERATOR_LOGOUT, BY)
    decided: list[object] = []
    for user in ("alice", "bob", "carol"):
        admissions.start(ask_about(user, limits=[LIMIT], expires_ms=SOON_MS), decided.append)
    await admissions.close()
    used = sorted(one.limit_states[0].used for one in decided)  # type: ignore[attr-defined]
    assert used == [4, 5, 6]
    assert sorted(str(one.came_from) for one in decided) == ["None", "None", "logged_out"]  # type: ignore[attr-defined]


async def test_a_large_batch_sends_the_indexes_once_whoever_asks(admissions: Admissions, sent: list[int]) -> None:
    users = [f"user-{number}" for number in range(SMALL_BATCH + 1)]
    for _ in range(2):
        sent.clear()
        decided: list[object] = []
        for user in users:
            admissions.start(ask_about(user, expires_ms=SOON_MS), decided.append)
        await admissions.close()
        assert len(decided) == len(users)
        assert max(sent) == 10 + len(users)


def counted_window(times_us: Sequence[int], tick_us: int) -> bytes:
    """A window of a limit above 1,000 requests: buckets that end at these moments, with one admission each."""
    base_us, exponent = times_us[0], tick_us.bit_length() - 1
    head = bytes([32 + exponent]) + base_us.to_bytes(7, "big") + bytes(4)
    ticks = [(at - base_us) // tick_us for at in times_us]
    return head + b"".join(at.to_bytes(4, "big") + number.to_bytes(4, "big") for number, at in enumerate(ticks, 1))


async def test_the_count_of_a_bucket_that_goes_on_is_written_alone_and_the_key_ends_when_it_was_to_end(
    admissions: Admissions, access: RedisAccess
) -> None:
    wide = Limit("wide", Per.IP, 5000, 86_400)
    key, tick_us, now_us = keys_of("?").window("wide", "10.0.0.1"), 128, time.time_ns() // 1000
    before = counted_window([now_us + at_s * 1_000_000 for at_s in (-5000, -4000, -3000, -2000, 600)], tick_us)
    await access.client.set(key, before, px=90_000_000)
    for used in (6, 7):
        answer = await admissions.ask(ask_about(None, limits=[wide]))
        assert [one.used for one in answer.limit_states] == [used]
        assert await access.client.get(key) == before[:-4] + used.to_bytes(4, "big")
    assert 88_000_000 < await access.client.pttl(key) <= 90_000_000
