"""The data of the admin API's answers: sessions, results of actions, restrictions, limits."""

from typing import Any

from service.core.limits import LimitState
from service.core.operator_actions import ActionResult, Rules
from service.core.sessions import Refusal, Session
from service.core.text.timestamps import timestamp


def session_data(tenant: str, session: Session) -> dict[str, Any]:
    """Return a session with the members that `/auth/status` returns."""
    return {
        "tenant": tenant,
        "userId": session.user,
        "status": session.status,
        "previousStatus": session.previous,
        "since": moment(session.since_ms),
        "lastSeen": moment(session.seen_ms),
        "tokenExpiresAt": moment(session.expires_ms),
    }


def rules_data(rules: Rules) -> dict[str, Any]:
    """Return what operators have set: restrictions, revocation, limits."""
    limits = {name: {"requests": requests, "window": window_s} for name, (requests, window_s) in rules.limits.items()}
    return {
        "restrictions": [{"capability": name, "until": moment(until)} for name, until in rules.restrictions.items()],
        "revokedBefore": None if rules.revoked_before_s is None else moment(rules.revoked_before_s * 1000),
        "limits": limits,
    }


def revoked_data(before_s: int | None, session: Session | None = None) -> dict[str, Any]:
    """Return up to when tokens are refused, from when on new ones are accepted, and whether the user's carry `iat`."""
    if before_s is None:
        return {}
    carry_iat = None if session is None else session.tokens_carry_iat
    moments = {"revokedBefore": moment(before_s * 1000), "newTokensFrom": moment((before_s + 1) * 1000)}
    return {**moments, "tokensCarryIat": carry_iat}


def result_data(done: ActionResult, name: str) -> dict[str, Any]:
    """Return the result of the action `name` for one of many users."""
    if done.outcome is Refusal.UNREADABLE:
        return {"userId": done.user, "done": False, "message": "The record of this user cannot be read"}
    if isinstance(done.outcome, Refusal):
        unknown = done.outcome is Refusal.UNKNOWN
        message = "Nothing is recorded of this user" if unknown else conflict(done, name)
        return {"userId": done.user, "done": False, "status": done.came_from, "message": message}
    data = {"userId": done.user, "done": True, "applied": done.applied, "status": done.outcome}
    return {**data, "previousStatus": done.came_from, **revoked_data(done.revoked_before_s, done.session)}


def conflict(done: ActionResult, name: str) -> str:
    """Return why the action `name` was not done."""
    return f"{name} conflicts with the status {done.came_from.value}"


def limit_state_data(limit_state: LimitState) -> dict[str, Any]:
    """Return how much of a limit is used."""
    limit = limit_state.limit
    return {
        "limit": limit.name,
        "requests": limit.requests,
        "window": limit.window_s,
        "used": limit_state.used,
        "remaining": limit_state.remaining,
        "reset": limit_state.reset_s,
    }


def moment(ms: int | None) -> str | None:
    """Return a moment in the format of every answer; None: not known."""
    return None if ms is None else timestamp(ms)


def unknown_capability(capability: str) -> str:
    """Return the note that nothing asks for a capability, so far."""
    return (
        f"No operation and no route of this tenant asks for {capability}: the restriction has no effect, unless an "
        "application with the middleware names it."
    )
