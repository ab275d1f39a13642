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
from service.core.errors import KeysUnavailable, StoreUnavailable, UnknownKey
from service.web import app_keys
from service.web.api.authentication import MAX_HEADER_BYTES, Middlewares, hold_to_size
from service.web.app_keys import Exchange

log = structlog.get_logger()

Answered = Callable[[web.Request, web.StreamResponse | None], None]
"""Told a request's answer; None: there is none to give, and the log says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an operation is answered."""

    operation: app_keys.Operation
    answer: app_keys.Prompt
    """Once it is admitted."""
    regular: app_keys.Answering
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

    def enter(self, request: web.Request, way: Way, answered: Answered, size: int) -> bool:
        """Take `request`, and tell `answered` its answer: at once, or when Redis has decided.

        Args:
            request: one without a body.
            way: its own.
            answered: is told once.
            size: bytes that its header fields are at most, all together.

        Returns:
            False: it cannot go this way; nothing was asked, and nothing is told.
        """
        steps, exchange = self._steps, None
        try:
            exchange = steps.begin(request)
            if size > MAX_HEADER_BYTES:
                hold_to_size(request)
            question = steps.question(request, exchange, way.operation)
            try:
                told = partial(self._land, request, exchange, way, question, answered)
                decided: Decided | None = exchange.gate.start(question, told)
            except StoreUnavailable as error:
                decided = error
        except (UnknownKey, KeysUnavailable):
            return False
        except Exception as error:
            answered(request, self._refused(request, exchange, error))
            return True
        if decided is not None:
            self._land(request, exchange, way, question, answered, decided)
        return True

    def _land(
        self, request: web.Request, exchange: Exchange, way: Way, question: Question, answered: Answered, told: Decided
    ) -> None:
        try:
            if isinstance(told, Admission):
                admission = told
            else:
                exchange.gate.count_failure(told)
                admission = exchange.gate.without_store(question)
            self._steps.settle(exchange, question, admission)
            answer: web.StreamResponse | None = self._steps.finish(request, exchange, way.answer(request, exchange))
        except Exception as error:
            answer = self._refused(request, exchange, error)
        answered(request, answer)

    def _refused(self, request: web.Request, exchange: Exchange | None, error: Exception) -> web.StreamResponse | None:
        try:
            if exchange is None:
                raise error
            request[app_keys.EXCHANGE] = exchange  # a page looks there
            return self._steps.refuse(request, exchange, error)
        except Exception as mistake:  # of ours, behind the last line of the middlewares
            log.error("a request failed", exc_info=mistake)
            return None


SHORT_WAY = web.AppKey("SHORT_WAY", ShortWay)
