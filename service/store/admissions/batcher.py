"""The batcher: requests that wait at the same moment share one round trip to Redis.

Each node has one connection with one round trip at a time. Requests that arrive meanwhile wait, and share the next one.
So an idle service asks at once, and a busy one fills its batches. An admission is sent once. It is sent again only if
Redis says that it ran nothing: it does not have the function, it takes no writes (then only what needs none is
decided), the question takes keys that were not sent (`record_forecast.py`), or on a Cluster MOVED or ASK.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import AskError, MovedError

from service.core.admission import NOTHING_ASKED, Admission, Decided, OnDecided, Question, Terms
from service.core.errors import BREAKER_IS_OPEN, StoreUnavailable
from service.store.admissions.denial_cache import DenialCache
from service.store.admissions.encoding import LacksKeys, decode, encode
from service.store.admissions.record_forecast import RecordForecast
from service.store.connection.failures import OVERLOAD, TIMEOUT, is_unknown_function, unavailable, write_refusal
from service.store.connection.pipeline import AdmissionPipeline
from service.store.connection.resp import Command, packed
from service.store.connection.router import NodeRouter
from service.store.keyspace import NO_TENANT, TenantKeys, keys_of
from service.store.scripts import LACKS_RULES, LIBRARY

log = structlog.get_logger()

MAX_BATCH = 128
"""The most questions of a round trip; about a millisecond of Redis's time."""
MAX_WAITING = 4096
"""The most requests that wait. Beyond it a request is 503 at once: its answer would come too late."""
SMALL_BATCH = 16
"""Up to so many questions, the keys of the indexes are sent only where a record will change; more share the cost."""
MOMENT_S = 0.005
"""A request that has waited no longer than this gets its answer with the round trip."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """The settings under `sessions:` that the admission needs, in milliseconds."""

    seen_every_ms: int
    logout_grace_ms: int


class _Waiting:
    # Not a dataclass: there is one per request, and these are seldom set.
    over = False
    """Whether the answer was delivered."""
    loads = False
    """Redis does not have the function: load the library first."""
    reading = ""
    """The kind of error with which Redis takes no writes: only what needs none is decided."""
    asking = False
    """A node that is migrating the slot has redirected it here (ASK)."""
    whole = False
    """It takes keys that were not sent the first time: send all."""

    def __init__(
        self, question: Question, on_decided: OnDecided, is_gone: Callable[[], bool] | None, until: float
    ) -> None:
        self.question = question
        self.on_decided = on_decided
        self.is_gone = is_gone
        """Whether the caller no longer waits."""
        self.until = until
        """When to give up, by the loop's clock."""


class Admissions:
    """Asks Redis about requests."""

    def __init__(self, router: NodeRouter, rules: SessionRules) -> None:
        self.rules = rules
        self.denials = DenialCache(time.monotonic)
        self.note_ahead: Callable[[str, int], None] = lambda tenant, accepted_from_s: None
        """Is called where a token is refused by a revocation that lies ahead of the clock."""
        self.forecast = RecordForecast(lambda: time.time() * 1000, time.monotonic)
        self._router = router
        self._queues: dict[AdmissionPipeline, _NodeQueue] = {}

    async def ask(self, question: Question) -> Admission:
        """Decide `question`.

        Raises:
            StoreUnavailable: Redis did not answer; the admission may have taken effect.
        """
        answer: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()

        def on_decided(decided: Decided) -> None:
            if answer.done():
                return
            if isinstance(decided, Admission):
                answer.set_result(decided)
            else:
                answer.set_exception(decided)

        decided = self.start(question, on_decided, answer.done)
        return decided if decided is not None else await answer

    def start(
        self, question: Question, on_decided: OnDecided, is_gone: Callable[[], bool] | None = None
    ) -> Admission | None:
        """Decide `question` at once if Redis need not be asked; otherwise with the next round trip, by a callback.

        Args:
            question: what is asked.
            on_decided: is called once, later, where nothing is returned.
            is_gone: whether the caller no longer waits; then the question is not sent.

        Raises:
            StoreUnavailable: no request may wait for Redis now.
        """
        if not question.needs_store:
            return NOTHING_ASKED
        if (refused := self.denials.find(question)) is not None:
            return refused
        pipeline = self._router.pipeline_to(question.terms.tenant or NO_TENANT)
        if pipeline.is_down:
            raise StoreUnavailable(BREAKER_IS_OPEN, pipeline.failure)
        queue = self._queue_of(pipeline)
        if len(queue.waiting) >= MAX_WAITING:
            raise StoreUnavailable("too many requests are waiting for Redis", OVERLOAD)
        queue.join(_Waiting(question, on_decided, is_gone, queue.loop.time() + pipeline.timeout_s))
        return None

    async def close(self) -> None:
        """Wait for the round trips that are under way."""
        for queue in self._queues.values():
            if queue.trips is not None:
                await queue.trips

    def _queue_of(self, pipeline: AdmissionPipeline) -> "_NodeQueue":
        queue = self._queues.get(pipeline)
        if queue is None:
            # A Cluster's nodes come and go: what leads to one that is gone is dropped with its last request.
            self._queues = {of: one for of, one in self._queues.items() if not of.is_closed or one.trips is not None}
            queue = self._queues[pipeline] = _NodeQueue(self, pipeline)
        return queue

    def commands(self, batch: Sequence[_Waiting]) -> list[tuple[Sequence[_Waiting], list[Command]]]:
        """Return what to send: each call with its questions, in the order of its answers."""
        tenants: dict[str | None, dict[object, list[_Waiting]]] = {}
        group: list[_Waiting] = []
        before: Terms | None = None
        for waiting in batch:
            terms = waiting.question.terms
            if terms is not before:
                before = terms
                group = tenants.setdefault(terms.tenant, {}).setdefault(terms.shape, [])
            group.append(waiting)
        # Anyone can send requests without a tenant: an error of their call must not affect those of tenants.
        asked_about = [
            (keys_of(name or NO_TENANT), list(of.values())) for name, of in tenants.items() if name is not None
        ]
        calls = [asked_about] if asked_about and self._router.one_call else [[one] for one in asked_about]
        if None in tenants:
            calls.append([(keys_of(NO_TENANT), list(tenants[None].values()))])
        return [
            ([one for _, groups in call for asked in groups for one in asked], self._commands(call)) for call in calls
        ]

    def _commands(self, call: Sequence[tuple[TenantKeys, Sequence[Sequence[_Waiting]]]]) -> list[Command]:
        keys: list[str] = []
        args: list[str | int] = []
        loads = asking = False
        reading = ""
        for _, groups in call:
            for asked in groups:
                for waiting in asked:
                    loads |= waiting.loads
                    asking |= waiting.asking
                    reading = reading or waiting.reading
        settings = f"{self.rules.seen_every_ms} {self.rules.logout_grace_ms}"
        for of, groups in call:
            with_indexes, with_rules = self._keys_to_send(groups)
            questions = [[waiting.question for waiting in asked] for asked in groups]
            encode(of, questions, settings, reading, keys, args, with_indexes, with_rules)
        function = LIBRARY.functions["admit_reading" if reading else "admit"]
        commands: list[Command] = [("FCALL", function, len(keys), *keys, *args)]
        if asking:
            commands.insert(0, ("ASKING",))
        if loads:
            commands.insert(0, ("FUNCTION", "LOAD", LIBRARY.text))
        return commands

    def _keys_to_send(self, groups: Sequence[Sequence[_Waiting]]) -> tuple[bool, bool]:
        """Return whether a tenant's questions will probably take the keys of its indexes, and of its users' rules."""
        asked = [waiting for group in groups for waiting in group]
        whole = any(waiting.whole for waiting in asked)
        with_indexes = whole or len(asked) > SMALL_BATCH
        if not with_indexes:
            changes, seen_every_ms = self.forecast.changes_record, self.rules.seen_every_ms
            with_indexes = any(changes(waiting.question, seen_every_ms) for waiting in asked)
        return with_indexes, whole or self.forecast.reads_rules(asked[0].question.terms.tenant)

    def send_whole(self, waiting: _Waiting, error: LacksKeys, pipeline: AdmissionPipeline) -> bool:
        """Send a question again with all keys that it may take. Returns whether it did: not more than once."""
        if waiting.whole:
            return False
        if error.reason == LACKS_RULES:
            self.forecast.learn_ruled(waiting.question.terms.tenant)
        waiting.whole, waiting.loads = True, False
        self._queue_of(pipeline).join(waiting)
        return True

    def send_again(self, asked: Sequence[_Waiting], error: Exception, pipeline: AdmissionPipeline) -> bool:
        """Send a question again as Redis asks, if Redis ran nothing and the caller still waits. Returns whether it did.

        Raises:
            StoreUnavailable: no node is known to ask.
        """
        if isinstance(error, AskError):
            pipeline = self._router.redirected(error)
        elif not (write_refusal(error) or (is_unknown_function(error) and not any(one.loads for one in asked))):
            return False
        for waiting in asked:
            waiting.asking = isinstance(error, AskError) and not isinstance(error, MovedError)
            waiting.loads, waiting.reading = is_unknown_function(error), write_refusal(error)
            self._queue_of(pipeline).join(waiting)
        return True


class _NodeQueue:
    """The requests that wait for one node, and the round trips to it."""

    def __init__(self, admissions: Admissions, pipeline: AdmissionPipeline) -> None:
        self.pipeline = pipeline
        self.loop = asyncio.get_running_loop()  # kept: before Python 3.12, asking for it is a system call
        self.waiting: deque[_Waiting] = deque()
        self.trips: asyncio.Task[None] | None = None
        self._admissions = admissions
        self._watching: asyncio.TimerHandle | None = None

    def join(self, waiting: _Waiting) -> None:
        """Add `waiting` to the next round trip."""
        self.waiting.append(waiting)
        if self.trips is None:
            self.trips = self.loop.create_task(self._travel())

    async def _travel(self) -> None:
        """Make round trips while requests wait. No caller may cancel it."""
        try:
            while self.waiting:
                if batch := self._take():
                    await self._trip(batch)
        finally:
            self.trips = None

    def _take(self) -> Sequence[_Waiting]:
        """Return the next batch. A request whose client hung up is not sent; one that waited too long fails."""
        now = self.loop.time()
        batch = []
        for waiting in [self.waiting.popleft() for _ in range(min(MAX_BATCH, len(self.waiting)))]:
            if waiting.over or (waiting.is_gone is not None and waiting.is_gone()):
                continue
            if waiting.until < now:
                _answer(waiting, StoreUnavailable("it waited too long for its turn", OVERLOAD))
            else:
                batch.append(waiting)
        return batch

    async def _trip(self, batch: Sequence[_Waiting]) -> None:
        until, asked_at = self.loop.time() + self.pipeline.timeout_s, self._admissions.denials.now()
        if min([waiting.until for waiting in batch]) < until - MOMENT_S:
            self._watch(batch)
        try:
            calls = self._admissions.commands(batch)
            replies = await self.pipeline.send([command for _, commands in calls for command in commands], until)
        except Exception as error:  # of any kind: no request may be left waiting
            if not isinstance(error, StoreUnavailable) and (wrong := self._unsendable(batch)):
                self.waiting.extendleft(one for one in reversed(batch) if one not in wrong)
                return
            # Requests behind a round trip that failed have waited as long as it took: they fail, too.
            behind = (*batch, *self.waiting)
            self.waiting.clear()  # first: a callback may ask again
            _fail(behind, error)
            return
        finally:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
        at = 0
        for asked, commands in calls:
            at += len(commands)
            try:
                self._deliver(asked, replies[at - 1], asked_at)
            except Exception as error:  # an answer that the function does not give
                log.error("an answer of redis was not understood", exc_info=error)
                _fail(asked, error)

    def _unsendable(self, batch: Sequence[_Waiting]) -> list[_Waiting]:
        """Return the questions that cannot be encoded; a batch with one of them was not sent."""
        found = []
        for waiting in batch:
            try:
                packed([command for _, commands in self._admissions.commands([waiting]) for command in commands])
            except Exception as error:
                log.error("a question cannot be sent", exc_info=error)
                _fail([waiting], error)
                found.append(waiting)
        return found

    def _watch(self, batch: Sequence[_Waiting]) -> None:
        """Fail each request of a batch when its time is over: one that waited has less left than a trip may take."""
        now = self.loop.time()
        late = [one for one in batch if one.until <= now + MOMENT_S]
        _fail(late, StoreUnavailable("redis did not answer in time", TIMEOUT))
        rest = [one for one in batch if one.until > now + MOMENT_S] if late else batch
        self._watching = self.loop.call_at(min(one.until for one in rest), self._watch, rest) if rest else None

    def _deliver(self, asked: Sequence[_Waiting], reply: Any, asked_at: float) -> None:
        if isinstance(reply, Exception):
            try:
                if self._admissions.send_again(asked, reply, self.pipeline):
                    return
            except StoreUnavailable as error:
                reply = error
            _fail(asked, reply)
            return
        answers = iter(reply)
        for waiting in asked:
            decided = decode(waiting.question, answers, self._admissions.denials.learn, self._admissions.note_ahead)
            if waiting.over:
                continue
            if isinstance(decided, Admission):
                if decided.session is not None and len(asked) <= SMALL_BATCH:
                    self._admissions.forecast.learn(waiting.question, decided.session)
                if decided.may_be_full:
                    self._admissions.denials.remember(waiting.question, decided, asked_at)
            elif isinstance(decided, LacksKeys) and self._admissions.send_whole(waiting, decided, self.pipeline):
                continue
            _answer(waiting, decided)


def _answer(waiting: _Waiting, decided: Decided) -> None:
    waiting.over = True
    try:
        waiting.on_decided(decided)
    except Exception as error:  # its own error must not affect the others
        log.error("an answer was not taken", exc_info=error)


def _fail(asked: Sequence[_Waiting], error: Exception) -> None:
    failure = unavailable(error)
    for waiting in asked:
        if not waiting.over:
            _answer(waiting, StoreUnavailable(failure.reason, failure.kind))
