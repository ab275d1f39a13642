"""The hot path: what is asked at the deployment's full rate is answered without a router, a task or a coroutine.

A request takes the same steps as through the middlewares (`begin`, `question`, the one admission, `settle`, `finish`);
only the waiting differs: here a callback, there an `await`. What may have to wait for more than Redis (a body, a
tenant's fresh keys) goes through aiohttp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web

from service.core.admission import Admission, Decided, Question
from service.core.errors import KeysUnavailable, StoreUnavailable, UnknownKey
from service.web import app_keys
from service.web.api.authentication import Middlewares
from service.web.app_keys import RequestContext
from service.web.server.request_head import RequestHead
from service.web.server.responses import ApiResponse

log = structlog.get_logger()

OnAnswer = Callable[[RequestHead, ApiResponse | None], None]
"""Is called with a request's answer; None: there is none to give, and the log says why."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """How an operation is answered."""

    operation: app_keys.Operation
    answer: app_keys.Responder
    """Once it is admitted."""
    through_aiohttp: app_keys.AsyncHandler
    """The same, to be awaited."""


class HotPath:
    """Answers hot operations by the steps of the middlewares.

    Args:
        middlewares: whose steps are taken.
        find: returns the route of a method and a raw path; None: there is none.
    """

    def __init__(self, middlewares: Middlewares, find: Callable[[str, str], HotRoute | None]) -> None:
        self.find = find
        self._steps = middlewares

    def enter(self, request: RequestHead, route: HotRoute, on_answer: OnAnswer) -> bool:
        """Take `request`, and call `on_answer` with its answer: at once, or when Redis has decided.

        Args:
            request: one without a body.
            route: its own.
            on_answer: called once.

        Returns:
            False: it cannot take this path; Redis was not asked, and `on_answer` is not called.
        """
        steps, context = self._steps, None
        try:
            context = steps.begin(request)
            question = steps.question(request, context, route.operation)
            try:
                on_decided = partial(self._land, request, context, route, question, on_answer)
                decided: Decided | None = context.services.start(question, on_decided)
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
        request: RequestHead,
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
            answer = route.answer(request, context)
            self._steps.finish(request, context, answer)
        except Exception as error:
            on_answer(request, self._refused(request, context, error))
        else:
            on_answer(request, answer)

    def _refused(self, request: RequestHead, context: RequestContext | None, error: Exception) -> ApiResponse | None:
        try:
            if context is None:
                raise error
            return self._steps.refuse(request, context, error)
        except Exception as mistake:  # of ours, behind the last line of the middlewares
            log.error("a request failed", exc_info=mistake)
            return None


HOT_PATH = web.AppKey("HOT_PATH", HotPath)
