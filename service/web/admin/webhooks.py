"""Webhooks in the admin API: their state, the message that waits, and the actions of operators on them."""

import time
from typing import Any

from aiohttp import web

from service.core.errors import Conflict, NotFound
from service.core.webhooks import Pause, SetAside, Skip, Waiting, WebhookState
from service.web import app_keys
from service.web.admin.answers import moment
from service.web.admin.authorization import AdminServices, for_operators, for_viewers
from service.web.admin.schemas import ReasonBody, SkipBody, read_body
from service.web.api.envelope import success


@for_viewers
async def webhooks(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show the tenant's webhooks: the last delivered event of each, and its failed attempts."""
    states = request.app[app_keys.WEBHOOK_STATES]
    data = [_summary(name, await states.state(admin.at, name)) for name in admin.tenant.webhooks]
    return success(request, {"webhooks": data})


@for_viewers
async def webhook(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show one webhook, with the message that waits and those that were set aside."""
    name = _name_of(request, admin)
    state = await request.app[app_keys.WEBHOOK_STATES].state(admin.at, name)
    waiting = None if state.waiting is None else _waiting(state.waiting, state.paused)
    data = {**_summary(name, state), "waiting": waiting, "setAside": [_set_aside(one) for one in state.set_aside]}
    return success(request, data)


@for_operators
async def pause_webhook(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Send nothing until the webhook is resumed."""
    name, body = _name_of(request, admin), await read_body(request, ReasonBody)
    one = Pause(admin.operator.name, body.reason, time.time_ns() // 1_000_000)
    applied = await request.app[app_keys.WEBHOOK_STATES].pause(admin.at, name, one)
    return success(request, {"success": True, "applied": applied})


@for_operators
async def resume_webhook(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Send again. The message that waits is attempted at once, even if the webhook was not paused."""
    name = _name_of(request, admin)
    await read_body(request, ReasonBody)
    applied = await request.app[app_keys.WEBHOOK_STATES].resume(admin.at, name)
    return success(request, {"success": True, "applied": applied})


@for_operators
async def skip_message(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Skip the message that waits; the receiver gets a `gap` in its place."""
    name, body = _name_of(request, admin), await read_body(request, SkipBody)
    states = request.app[app_keys.WEBHOOK_STATES]
    state = await states.state(admin.at, name)
    if state.waiting is None:
        raise Conflict("No message is waiting")
    message_id = state.waiting.message_id
    if body.id is not None and body.id != message_id:
        raise Conflict("Another message is waiting")
    applied = state.skip is None or state.skip.message_id != message_id
    if applied:
        await states.skip(admin.at, name, Skip(message_id, admin.operator.name, body.reason))
    return success(request, {"success": True, "applied": applied, "id": message_id})


def _name_of(request: web.Request, admin: AdminServices) -> str:
    name = request.match_info["webhook"]
    if name not in admin.tenant.webhooks:
        raise NotFound("There is no such webhook")
    return name


def _summary(name: str, state: WebhookState) -> dict[str, Any]:
    paused = state.paused
    return {
        "webhook": name,
        "state": state.name,
        "lastEvent": state.cursor,
        "failedAttempts": state.attempts,
        "error": state.error,
        "paused": paused and {"by": paused.by or None, "reason": paused.reason, "at": moment(paused.at_ms)},
    }


def _waiting(waiting: Waiting, paused: Pause | None) -> dict[str, Any]:
    return {
        "id": waiting.message_id,
        "failedSince": moment(waiting.since_ms or None),
        "nextAttempt": moment(waiting.next_ms or None) if paused is None else None,
        "message": waiting.content,
    }


def _set_aside(one: SetAside) -> dict[str, Any]:
    return {
        "id": one.message_id,
        "at": moment(one.at_ms),
        "cause": one.cause,
        "by": one.by or None,
        "reason": one.reason,
        "error": one.error,
        "message": one.content,
    }
