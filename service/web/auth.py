"""`/auth/*`: what a user's client asks."""

from dataclasses import replace

from aiohttp import web

from service.core.admission import Terms
from service.core.moments import quoted_timestamp as moment
from service.core.sessions import Cause
from service.web.answer import Answer
from service.web.envelope import DONE, quoted, success, success_of
from service.web.keys import EXCHANGE, Exchange
from service.web.schemas import TerminateBody, read_body


async def logout(request: web.Request) -> web.StreamResponse:
    """See `logged_out`."""
    return logged_out(request, request[EXCHANGE])


def logged_out(_: web.Request, exchange: Exchange) -> Answer:
    """Say that the status is `logged_out`: the admission has made it so, or this is not reached."""
    exchange.admitted()
    return success_of(exchange, DONE)


async def status(request: web.Request) -> web.StreamResponse:
    """See `standing`."""
    return standing(request, request[EXCHANGE])


def standing(_: web.Request, exchange: Exchange) -> Answer:
    """Where the user stands after this request."""
    identity, admission = exchange.admitted()
    session = admission.session
    # Written out, member by member: this is asked at the full rate of the deployment.
    who = f'"tenant": "{identity.tenant}", "userId": {quoted(identity.user)}'
    if session is not None:
        previous = f'"{session.previous}"' if session.previous is not None else "null"
        stands = (
            f'"status": "{session.status}", "previousStatus": {previous}, "since": {moment(session.since_ms)}, '
            f'"lastSeen": {moment(session.seen_ms)}, "tokenExpiresAt": {moment(session.expires_ms)}'
        )
    else:
        # Without Redis nothing is known but the token, and nothing is made up; otherwise only x-passive gets here.
        degraded = "sessions" in admission.degraded
        expires = moment(identity.expires_ms if degraded else None)
        status = "null" if degraded else '"none"'
        stands = (
            f'"status": {status}, "previousStatus": null, "since": null, "lastSeen": null, "tokenExpiresAt": {expires}'
        )
    return success_of(exchange, f"{{{who}, {stands}}}")


async def ending(request: web.Request, terms: Terms) -> Terms:
    """On what terms a user ends its own account: `soft` suspends it, `hard` terminates it."""
    body = await read_body(request, TerminateBody)
    cause = Cause.OWN_SUSPEND if body.strategy == "soft" else Cause.OWN_TERMINATE
    return replace(terms, cause=cause, reason=body.reason)


async def terminate(request: web.Request) -> web.StreamResponse:
    """Say that the account is ended: the admission has done it, or this is not reached."""
    request[EXCHANGE].admitted()
    return success(request, {"success": True}, status=201)
