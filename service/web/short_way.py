"""The short way: what is asked at the deployment's full rate is answered without a router, a task or a coroutine.

A request takes the same steps as through the middlewares (`begin`, `question`, the one admission, `settle`,
`finish`); only the waiting differs: here a callback, there an `await`. What may have to wait for more than Redis (a
body, a tenant's fresh keys) goes the regular way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web

from service.core.admission import Admission, Decided, Question
from service.core.errors import StoreUnavailable, UnknownKey
from service.web import keys
from service.web.answer import Answer
from service.web.middlewares import Middlewares, hold_to_size

log = structlog.get_logger()

Answered = Callable[[web.Request, web.StreamResponse | None], None]
"""Told a request's answer; None: there is none to give, and the log says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an operation is answered."""

    operation: keys.Operation
    answer: Callable[[web.Request], Answer]
    """Once it is admitted."""
    regular: keys.Answering
    """The same, to be awaited."""


class ShortWay:
    """Over one gate, as the middlewares are.

    Args:
        middlewares: whose steps are taken.
        find: method and raw path → the way; None: there is none.
    """

    def __init__(self, middlewares: Middlewares, find: Callable[[str, str], Way | None]) -> None:
        self.find = find
        self._steps = middlewares

    def enter(self, request: web.Request, way: Way, answered: Answered) -> bool:
        """Take `request`, and tell `answered` its answer: at once, or when Redis has decided.

        Returns:
            False: it cannot go this way; nothing was asked, and nothing is told.
        """
        steps = self._steps
        try:
            gate = steps.begin(request).gate
            hold_to_size(request)
            question = steps.question(request, way.operation)
            try:
                decided: Decided | None = gate.start(question, partial(self._land, request, way, question, answered))
            except StoreUnavailable as error:
                decided = error
        except UnknownKey:
            return False
        except Exception as error:
            answered(request, self._refused(request, error))
            return True
        if decided is not None:
            self._land(request, way, question, answered, decided)
        return True

    def _land(self, request: web.Request, way: Way, question: Question, answered: Answered, decided: Decided) -> None:
        answered(request, self._answer(request, way, question, decided))

    def _answer(
        self, request: web.Request, way: Way, question: Question, decided: Decided
    ) -> web.StreamResponse | None:
        try:
            exchange = request[keys.EXCHANGE]
            if not isinstance(decided, Admission):
                decided = exchange.gate.without_store(question)
            self._steps.settle(exchange, question, decided)
            return self._steps.finish(request, way.answer(request))
        except Exception as error:
            return self._refused(request, error)

    def _refused(self, request: web.Request, error: Exception) -> web.StreamResponse | None:
        try:
            return self._steps.refuse(request, error)
        except Exception as mistake:  # of ours, behind the last line of the middlewares
            log.error("a request failed", exc_info=mistake)
            return None


SHORT_WAY = web.AppKey("SHORT_WAY", ShortWay)
