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
from service.web.app_keys import RequestContext

log = structlog.get_logger()

OnAnswer = Callable[[web.Request, web.StreamResponse | None], None]
"""Told a request's answer; None: there is none to give, and the log says why."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """How an operation is answered."""

    operation: app_keys.Operation
    answer: app_keys.Responder
    """Once it is admitted."""
    regular: app_keys.AsyncHandler
    """The same, to be awaited."""


class HotPath:
    """Over one gate, as the middlewares are.

    Args:
        middlewares: whose steps are taken.
        find: method and raw path → the way; None: there is none.
    """

    def __init__(self, middlewares: Middlewares, find: Callable[[str, str], HotRoute | None]) -> None:
        self.find = find
        self._steps = middlewares

    def enter(self, request: web.Request, route: HotRoute, on_answer: OnAnswer, size: int) -> bool:
        """Take `request`, and tell `answered` its answer: at once, or when Redis has decided.

        Args:
            request: one without a body.
            route: its own.
            on_answer: is told once.
            size: bytes that its header fields are at most, all together.

        Returns:
            False: it cannot go this way; nothing was asked, and nothing is told.
        """
        steps, context = self._steps, None
        try:
            context = steps.begin(request)
            if size > MAX_HEADER_BYTES:
                hold_to_size(request)
            question = steps.question(request, context, route.operation)
            try:
                outcome = partial(self._land, request, context, route, question, on_answer)
                decided: Decided | None = context.services.start(question, outcome)
            except StoreUnavailable as error:
                decided = error
        except (UnknownKey, KeysUnavailable):
            return False
        except Exception as error:
            on_answer(request, self._refused(request, context, error))
            return True
        if decided is not None:
            self._land(request, context, route, question, on_answer, decided)
        return True

    def _land(
        self,
        request: web.Request,
        context: RequestContext,
        route: HotRoute,
        question: Question,
        on_answer: OnAnswer,
        outcome: Decided,
    ) -> None:
        try:
            if isinstance(outcome, Admission):
                admission = outcome
            else:
                context.services.count_failure(outcome)
                admission = context.services.without_store(question)
            self._steps.settle(context, question, admission)
            answer: web.StreamResponse | None = self._steps.finish(request, context, route.answer(request, context))
        except Exception as error:
            answer = self._refused(request, context, error)
        on_answer(request, answer)

    def _refused(
        self, request: web.Request, context: RequestContext | None, error: Exception
    ) -> web.StreamResponse | None:
        try:
            if context is None:
                raise error
            request[app_keys.REQUEST_CONTEXT] = context  # a page looks there
            return self._steps.refuse(request, context, error)
        except Exception as mistake:  # of ours, behind the last line of the middlewares
            log.error("a request failed", exc_info=mistake)
            return None


HOT_PATH = web.AppKey("HOT_PATH", HotPath)
