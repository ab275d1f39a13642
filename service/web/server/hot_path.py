"""The hot path: it answers the most frequent requests without a router, a task or a coroutine.

A request takes the same steps as through the middlewares (`begin`, `question`, the one admission, `settle`, `finish`);
only the waiting differs: here a callback, there an `await`. Only a request that waits for a tenant's fresh keys has a
task. A request with a body goes through aiohttp.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from service.core.admission import Admission, Decided, Question
from service.core.errors import KeysUnavailable, StoreUnavailable, UnknownKey
from service.web import app_keys
from service.web.api.authentication import Middlewares
from service.web.api.judged_requests import JudgedRequest, judged
from service.web.app_keys import RequestContext
from service.web.server.head_templates import OwnFields
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


@dataclass(frozen=True, slots=True)
class _Known:
    route: HotRoute
    judged: JudgedRequest


class HotPath:
    """Answers hot operations by the steps of the middlewares.

    Args:
        middlewares: whose steps are taken.
        find: returns the route of a method and a raw path; None: there is none.
    """

    def __init__(self, middlewares: Middlewares, find: Callable[[str, str], HotRoute | None]) -> None:
        self.find = find
        self._steps = middlewares
        self._services = middlewares.services
        self._waiting: set[asyncio.Task[None]] = set()
        """Requests that wait for keys; a loop keeps no reference to its tasks."""

    def enter(self, request: RequestHead, on_answer: OnAnswer, own: OwnFields | None = None) -> bool:
        """Take `request`, and call `on_answer` with its answer: at once, or when Redis has decided.

        Args:
            request: one without a body.
            on_answer: called once.
            own: the fields of this one request, where it fits a template. If it is not known, `request` lacks them.

        Returns:
            False: it is no hot operation, or has to be read in full; `on_answer` is not called.
        """
        known = request.judged if own is None else own.judged
        if isinstance(known, _Known) and (asked := known.judged.repeat(self._services, own)) is not None:
            context, question = asked
            if own is not None and request.is_known:
                result = known.judged.like(own, question)
                request.judged = result and _Known(known.route, result)
            self._ask(request, context, question, known.route, on_answer)
            return True
        if own is not None:
            return False
        route = self.find(request.method, request.raw_path)
        if route is None:
            return False
        try:
            context = self._steps.begin(request)
        except Exception as error:
            on_answer(request, self._refused(request, None, error))
            return True
        try:
            question = self._steps.question(request, context, route.operation)
            if request.is_known:
                result = judged(request, context, route.operation, question)
                request.judged = result and _Known(route, result)
        except (UnknownKey, KeysUnavailable) as error:
            self._start_waiting(self._enter_later(error, request, context, route, on_answer))
        except Exception as error:
            on_answer(request, self._refused(request, context, error))
        else:
            self._ask(request, context, question, route, on_answer)
        return True

    def _ask(
        self,
        request: RequestHead,
        context: RequestContext,
        question: Question,
        route: HotRoute,
        on_answer: OnAnswer,
    ) -> None:
        """Ask for the admission, and answer once it is decided."""
        try:
            on_decided = partial(self._land, request, context, route, question, on_answer)
            decided: Decided | None = context.services.start(question, on_decided)
        except StoreUnavailable as error:
            decided = error
        except Exception as error:
            on_answer(request, self._refused(request, context, error))
            return
        if decided is not None:
            self._land(request, context, route, question, on_answer, decided)

    def _start_waiting(self, waiting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(waiting)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _enter_later(
        self,
        error: UnknownKey | KeysUnavailable,
        request: RequestHead,
        context: RequestContext,
        route: HotRoute,
        on_answer: OnAnswer,
    ) -> None:
        """Wait a moment for the tenant's keys, and go on with those that are there then."""
        try:
            await context.services.refetch_keys(error)
            question = self._steps.question(request, context, route.operation, last=True)
        except Exception as error:
            on_answer(request, self._refused(request, context, error))
        else:
            self._ask(request, context, question, route, on_answer)

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
        except Exception as mistake:  # an error in the middlewares themselves
            log.error("a request failed", exc_info=mistake)
            return None


async def without_continue(_: web.Request) -> None:
    """Send no `100 Continue` (aiohttp's `expect_handler`): a hot operation is answered without the request's body.

    A proxy that passes the client's `Expect` on with its question (Caddy) passes the 100 back to the client, which then
    uploads a body that may be refused.
    """


HOT_PATH = web.AppKey("HOT_PATH", HotPath)
