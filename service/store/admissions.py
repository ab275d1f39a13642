"""The batcher: requests that wait at the same moment share one trip to Redis.

One trip is under way at a time, on one connection of its own. What arrives meanwhile waits and travels
together on the next: an idle service asks at once, a busy one fills its trips by itself. An admission is
sent once; the only answer that sends it again is NOSCRIPT, by which Redis says that it ran nothing.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from service.core.admission import NOTHING_ASKED, Admission, Question
from service.core.errors import StoreUnavailable
from service.core.limits import MICRO, Standing
from service.core.sessions import Status
from service.store.connection import Link
from service.store.keyspace import NO_TENANT, keys_of
from service.store.scripts import SCRIPTS, STATUSES, parse_record

MAX_BATCH = 128
"""Questions per trip; about a millisecond of Redis's time."""
MAX_WAITING = 4096
"""Beyond it a request is answered 503 at once: more waiting would only be answered late."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What the admission has to know of `sessions:` in the configuration, in milliseconds."""

    seen_every_ms: int
    logout_grace_ms: int


class _Waiting(NamedTuple):
    question: Question
    answer: asyncio.Future[Admission]
    until: float
    """When to give up, by the loop's clock."""


class Admissions:
    """Asks Redis about requests."""

    def __init__(self, link: Link, rules: SessionRules) -> None:
        self.rules = rules
        self._link = link
        self._waiting: deque[_Waiting] = deque()
        self._trips: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Admission:
        """Decide `question`.

        Raises:
            StoreUnavailable: Redis did not answer; the admission may have taken effect.
        """
        if not question.needs_store:
            return NOTHING_ASKED
        if self._link.is_down:
            raise StoreUnavailable("the circuit breaker is open")
        if len(self._waiting) >= MAX_WAITING:
            raise StoreUnavailable("too many requests are waiting for Redis")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Admission] = loop.create_future()
        self._waiting.append(_Waiting(question, answer, loop.time() + self._link.timeout_s))
        if self._trips is None:
            self._trips = asyncio.create_task(self._travel())
        return await answer

    async def close(self) -> None:
        """Let the trip that is under way end."""
        if self._trips is not None:
            await self._trips

    async def _travel(self) -> None:
        """Make trips for as long as somebody waits. Its callers come and go; it is nobody's to cancel."""
        try:
            while self._waiting:
                if batch := self._take():
                    await self._trip(batch)
        finally:
            self._trips = None

    def _take(self) -> Sequence[_Waiting]:
        """The next batch. Who hung up is not sent, so not charged; who waited too long is told so."""
        now = asyncio.get_running_loop().time()
        batch = []
        for waiting in [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]:
            if waiting.answer.done():
                continue
            if waiting.until < now:
                waiting.answer.set_exception(StoreUnavailable("it waited too long for its turn"))
            else:
                batch.append(waiting)
        return batch

    async def _trip(self, batch: Sequence[_Waiting]) -> None:
        try:
            replies = await self._call([waiting.question for waiting in batch])
        except Exception as error:  # whatever it is, nobody may be left waiting
            # Those who wait behind a trip that failed have waited as long as it took: tell them too.
            reason = error.reason if isinstance(error, StoreUnavailable) else repr(error)
            for waiting in (*batch, *self._waiting):
                if not waiting.answer.done():
                    waiting.answer.set_exception(StoreUnavailable(reason))
            self._waiting.clear()
            return
        for waiting, reply in zip(batch, replies, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(reply, bytes):
                waiting.answer.set_exception(StoreUnavailable(reply.decode(errors="replace")))
            else:
                waiting.answer.set_result(decode(waiting.question, reply))

    async def _call(self, questions: Sequence[Question]) -> list[Any]:
        verb = SCRIPTS["admit"]
        keys: list[str] = []
        args: list[str | int] = [
            self.rules.seen_every_ms,
            self.rules.logout_grace_ms,
        ]
        for question in questions:
            encode(question, keys, args)
        try:
            replies = await self._link.call("EVALSHA", verb.sha, len(keys), *keys, *args)
        except NoScriptError:
            replies = await self._link.call("EVAL", verb.text, len(keys), *keys, *args)
        return list(replies)


def encode(question: Question, keys: list[str], args: list[str | int]) -> None:
    """Append what `lua/admit.lua` reads of one question."""
    of = keys_of(NO_TENANT if question.tenant is None else question.tenant)
    args.append(len(question.charges))
    for charge in question.charges:
        limit = charge.limit
        keys.append(of.window(limit.name, charge.subject))
        args += (limit.requests, limit.window_s * MICRO, int(limit.shadow))
    identity = question.user
    if identity is None:
        args.append("")
        return
    keys += (of.user(identity.user), of.user_restrictions(identity.user), of.restrictions, *of.shared)
    args += (
        question.operation.cause.value,
        identity.user,
        identity.expires_ms,
        int(question.passive),
        int(question.restricted is not None),
        len(question.capabilities),
        *question.capabilities,
        question.client,
        question.request_id,
    )


def decode(question: Question, reply: Sequence[Any]) -> Admission:
    """Read what `lua/admit.lua` answers to one question."""
    standings = tuple(
        Standing(charge.limit, used=reply[3 * i], reset_us=reply[3 * i + 1], over=bool(reply[3 * i + 2]))
        for i, charge in enumerate(question.charges)
    )
    rest = reply[3 * len(standings) :]
    if not rest or question.user is None:
        return Admission(standings)
    record, before, restricted_at = rest
    session = parse_record(question.user.user, record)
    came_from = STATUSES[before.decode()]
    now = Status.NONE if session is None else session.status
    restricted = None
    if restricted_at:
        restricted = question.restricted or question.capabilities[restricted_at - 1]
    return Admission(
        standings,
        session=session,
        came_from=came_from if came_from is not now else None,
        restricted=restricted,
    )
