"""The data of the admin API's answers: sessions, results of actions, restrictions, limits."""

from typing import Any

from service.core.clocks import now_ms
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


def rules_data(rules: Rules, skew_ms: int) -> dict[str, Any]:
    """Return what operators have set: restrictions, revocation, limits; and a note where the revocation lies ahead."""
    limits = {name: {"requests": requests, "window": window_s} for name, (requests, window_s) in rules.limits.items()}
    return {
        "restrictions": [{"capability": name, "until": moment(until)} for name, until in rules.restrictions.items()],
        "revokedBefore": None if rules.revoked_before_s is None else moment(rules.revoked_before_s * 1000),
        "limits": limits,
        **ahead_note(rules.revoked_before_s, skew_ms),
    }


def revoked_data(
    before_s: int | None, session: Session | None = None, *, skew_ms: int, clocks_apart_s: int = 0
) -> dict[str, Any]:
    """Return up to when tokens are refused, from when on new ones are accepted, and whether the user's carry `iat`.

    Args:
        before_s: the second of the revocation; None: there is none.
        session: the user's, where it is known.
        skew_ms: how far clocks may differ; a note says where the moment lies further ahead.
        clocks_apart_s: by how much the clocks of the service and of Redis differed.
    """
    if before_s is None:
        return {}
    carry_iat = None if session is None else session.tokens_carry_iat
    moments = {"revokedBefore": moment(before_s * 1000), "newTokensFrom": moment((before_s + 1) * 1000)}
    return {**moments, "tokensCarryIat": carry_iat, **ahead_note(before_s, skew_ms, clocks_apart_s)}


def ahead_note(before_s: int | None, skew_ms: int, clocks_apart_s: int = 0) -> dict[str, Any]:
    """Return a note where a revocation lies so far ahead that logins are refused for long; otherwise nothing."""
    if before_s is None or max(before_s * 1000 - now_ms(), clocks_apart_s * 1000) <= skew_ms:
        return {}
    why = f"the clocks of the service and of Redis differ by {clocks_apart_s} s" if clocks_apart_s else "it lies ahead"
    return {
        "note": f"The revocation refuses logins until {moment((before_s + 1) * 1000)}, because {why}. If a clock is "
        "ahead, correct it, then lift the revocation and revoke again."
    }


def result_data(done: ActionResult, name: str, skew_ms: int) -> dict[str, Any]:
    """Return the result of the action `name` for one of many users."""
    if done.outcome is Refusal.UNREADABLE:
        return {"userId": done.user, "done": False, "message": "The record of this user cannot be read"}
    if isinstance(done.outcome, Refusal):
        unknown = done.outcome is Refusal.UNKNOWN
        message = "Nothing is recorded of this user" if unknown else conflict(done, name)
        return {"userId": done.user, "done": False, "status": done.came_from, "message": message}
    data = {"userId": done.user, "done": True, "applied": done.applied, "status": done.outcome}
    return {**data, "previousStatus": done.came_from, **act_data(done, skew_ms)}


def act_data(done: ActionResult, skew_ms: int) -> dict[str, Any]:
    """Return what an action says of the user's tokens: something after a logout everywhere alone."""
    return revoked_data(done.revoked_before_s, done.session, skew_ms=skew_ms, clocks_apart_s=done.clocks_apart_s)


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
