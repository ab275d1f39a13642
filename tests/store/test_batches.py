"""What is wrong with one question of a batch is that question's own."""

import asyncio

import pytest

from service.core.admission import Admission, Question
from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.keyspace import keys_of
from tests.store.making import ask_about

LIMIT = Limit("some", Per.IP, 1000, 60)


async def outcomes(admissions: Admissions, questions: list[Question]) -> list[Admission | BaseException]:
    """All of them at once, so in one batch behind the first."""
    first = asyncio.create_task(admissions.ask(ask_about("first", tenant="other")))
    await asyncio.sleep(0)
    found = await asyncio.gather(*(admissions.ask(one) for one in questions), return_exceptions=True)
    await first
    return found


def failed(found: list[Admission | BaseException]) -> list[bool]:
    assert all(isinstance(one, Admission | StoreUnavailable) for one in found), found
    return [isinstance(one, StoreUnavailable) for one in found]


async def test_a_question_that_cannot_be_written_as_a_command_fails_no_other(admissions: Admissions) -> None:
    questions = [ask_about(user) for user in ("alice", "\ud800", "bob")]
    assert failed(await outcomes(admissions, questions)) == [False, True, False]
    assert failed(await outcomes(admissions, questions)) == [False, True, False], "the connection is still in step"


@pytest.mark.parametrize("record", ["no record", "zz 1 2 3", "i- 1 2", "ii x 2 3"])
async def test_a_record_that_cannot_be_read_is_its_users_error_alone(
    admissions: Admissions, access: RedisAccess, record: str
) -> None:
    await access.client.set(keys_of("acme").user("broken"), record)
    questions = [ask_about(user, limits=[LIMIT]) for user in ("alice", "broken", "bob")]
    found = failed(await outcomes(admissions, questions))
    assert (found[0], found[2]) == (False, False)
    assert await access.client.get(keys_of("acme").user("broken")) == record.encode()


@pytest.mark.parametrize("key", ["rc:{acme}:rules", "rc:{acme}:by:logged_in", "rc:{acme}:w:some:10.0.0.9"])
async def test_a_key_of_a_wrong_type_is_its_questions_error_alone(
    admissions: Admissions, access: RedisAccess, key: str
) -> None:
    await access.client.xadd(key, {"no": "such"})
    questions = [
        ask_about("alice", tenant="globex", limits=[LIMIT]),
        ask_about("alice", limits=[LIMIT], client="10.0.0.9"),
        ask_about(None, limits=[LIMIT]),
        ask_about("bob", tenant="globex", limits=[LIMIT]),
    ]
    assert failed(await outcomes(admissions, questions)) == [False, True, False, False]


async def test_what_a_failed_question_did_not_write_is_not_gone_on_from(
    admissions: Admissions, access: RedisAccess
) -> None:
    """Two requests of one user in one batch: the second does not take the first one's transition for written."""
    await access.client.set(keys_of("acme").expiring, "no sorted set")
    questions = [ask_about("bob"), ask_about("alice", tenant="globex"), ask_about("bob")]
    assert failed(await outcomes(admissions, questions)) == [True, False, True]


async def test_requests_without_a_tenant_are_asked_about_in_a_call_of_their_own(
    admissions: Admissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str | None]] = []
    commands = Admissions.commands

    def seen(self: Admissions, batch: list[object]) -> object:
        made = commands(self, batch)  # type: ignore[arg-type]
        calls.extend([one.question.terms.tenant for one in asked] for asked, _ in made)
        return made

    monkeypatch.setattr(Admissions, "commands", seen)
    questions = [ask_about(user, limits=[LIMIT]) for user in ("alice", None, "bob", None)]
    assert failed(await outcomes(admissions, questions)) == [False] * 4
    assert [None, None] in calls
    assert all(len(set(call)) == 1 for call in calls)
