"""`/auth/*`: what a user's client asks."""

from aiohttp import web

from service.core.sessions import Status
from service.web.envelope import success, timestamp
from service.web.keys import user_context


async def logout(request: web.Request) -> web.StreamResponse:
    """Say that the status is `logged_out`: the admission has made it so, or this is not reached."""
    user_context(request)
    return success(request, {"success": True})


async def status(request: web.Request) -> web.StreamResponse:
    """Where the user stands after this request."""
    context = user_context(request)
    session = context.admission.session
    shown: dict[str, Status | str | None] = dict.fromkeys(
        ("status", "previousStatus", "since", "lastSeen", "tokenExpiresAt")
    )
    if session is not None:
        shown = {
            "status": session.status,
            "previousStatus": session.previous,
            "since": timestamp(session.since_ms),
            "lastSeen": timestamp(session.seen_ms),
            "tokenExpiresAt": timestamp(session.expires_ms),
        }
    elif "sessions" in context.admission.degraded:
        # Without Redis nothing is known but the token, and nothing is made up.
        shown["tokenExpiresAt"] = timestamp(context.identity.expires_ms)
    else:
        shown["status"] = Status.NONE  # only x-passive gets here: it leaves no record
    return success(request, {"tenant": context.tenant.name, "userId": context.identity.user, **shown})
