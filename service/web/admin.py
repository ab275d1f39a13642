"""The admin API: sessions, what operators do to them, restrictions and limits. Thin handlers over `Desk`."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from service.core.acts import Act, Rules
from service.core.errors import Conflict, InvalidRequest, NotFound
from service.core.limits import Limit, Per, Standing
from service.core.listing import Cursor, Page
from service.core.moments import timestamp
from service.core.sessions import RECORDED, Cause, Refusal, Session, Status
from service.web import keys
from service.web.envelope import done, success
from service.web.forwarded import is_counted
from service.web.operators import Desk, for_operators, for_viewers
from service.web.schemas import (
    ActBody,
    LimitBody,
    ManyBody,
    ResetBody,
    RestrictBody,
    RevokeBody,
    SessionsQuery,
    SubjectQuery,
    Told,
    moment_ms,
    read_body,
    read_query,
    read_user,
)
from service.web.stream import events

HISTORY_SIZE = 100
CAUSES = {
    "logout": Cause.OPERATOR_LOGOUT,
    "suspend": Cause.SUSPEND,
    "reinstate": Cause.REINSTATE,
    "terminate": Cause.TERMINATE,
}
"""Act, as the address names it → its cause."""


@for_viewers
async def tenants(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The operator's tenants, with how many users each has in each status."""
    known = request.app[keys.GATE].policy.current.directory.tenants
    names = sorted(name for name in known if desk.operator.sees(name))
    counts = await desk.sessions.counts(names) if names else {}
    return success(request, {"tenants": [{"tenant": name, "counts": counts[name]} for name in names]})


@for_viewers
async def tenant(request: web.Request, desk: Desk) -> web.StreamResponse:
    """One tenant: counts, and what operators have set."""
    counts = await desk.sessions.counts([desk.at])
    rules = await desk.acts.rules(desk.at)
    configured = {"restrictedByConfiguration": sorted(desk.tenant.restricted)}
    return success(request, {"tenant": desk.at, "counts": counts[desk.at], **configured, **_rules(rules)})


@for_viewers
async def activity(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The last hour: transitions and refusals in buckets, and who was refused most."""
    found = await request.app[keys.PULSES].activity(desk.at)
    told = {
        "bucketSeconds": found.bucket_s,
        "until": _time(found.ends_s * 1000),
        "transitions": found.transitions,
        "refusals": found.refusals,
        "shadowRefusals": found.shadow,
        "addresses": [{"address": address, "refusals": many} for address, many in found.addresses],
        "shadowLimits": [{"limit": limit, "refusals": many} for limit, many in found.shadow_limits.items()],
    }
    return success(request, told)


@for_viewers
async def sessions(request: web.Request, desk: Desk) -> web.StreamResponse:
    """A page of sessions by last seen, newest first; one user; or those whose names begin so."""
    query = read_query(request, SessionsQuery)
    statuses = RECORDED if query.status is None else [query.status]
    if Status.NONE in statuses:
        raise InvalidRequest([("status", f"must be one of {', '.join(RECORDED)}")])
    if query.user is not None:
        found = await desk.sessions.get(desk.at, query.user)
        page = Page((found,) if found and found.status in statuses else (), None)
    else:
        after = _cursor(query.after)
        page = await desk.sessions.page(desk.at, statuses=statuses, prefix=query.prefix, after=after, size=query.limit)
    listed = [session_data(desk.at, one) for one in page.sessions]
    following = str(page.after) if page.after else None
    return success(request, {"sessions": listed, "next": following, "examined": page.examined})


@for_viewers
async def session(request: web.Request, desk: Desk) -> web.StreamResponse:
    """One user: where it stands, what operators have set, and what happened lately."""
    user = read_user(request)
    found = await desk.sessions.get(desk.at, user)
    rules = await desk.acts.rules(desk.at, user)
    history = await desk.histories.history(desk.at, user, most=HISTORY_SIZE)
    if found is None and not history.events and rules == Rules():
        raise NotFound("Nothing is kept of this user")
    told = {
        "session": session_data(desk.at, found) if found else None,
        **_rules(rules),
        "events": [event.told() for event in history.events],
        "eventsReachBackTo": _time(history.reaches_back_to_ms),
    }
    del told["limits"]  # a tenant's alone
    return success(request, told)


@for_viewers
async def webhooks(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The tenant's webhooks: how far each has been told, and how it goes."""
    told = []
    for name in desk.tenant.webhooks:
        state = await request.app[keys.HOOKS].state(desk.at, name)
        one = {"webhook": name, "lastEvent": state.cursor, "failedAttempts": state.attempts, "error": state.error}
        told.append(one)
    return success(request, {"webhooks": told})


@for_operators
async def act(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Log out, suspend, reinstate or terminate one user."""
    body = await read_body(request, ActBody)
    [done] = await _act(request, desk, [read_user(request)], body)
    if done.outcome is Refusal.UNKNOWN:
        raise NotFound("Nothing is kept of this user")
    if isinstance(done.outcome, Refusal) or done.session is None:
        raise Conflict(_conflict(done, request.match_info["act"]))
    return success(request, session_data(desk.at, done.session))


@for_operators
async def act_on_many(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The same for up to 1,000 users, told one by one."""
    body = await read_body(request, ManyBody)
    acts = await _act(request, desk, list(dict.fromkeys(body.users)), body)
    return success(request, {"results": [_result(done, request.match_info["act"]) for done in acts]})


async def _act(request: web.Request, desk: Desk, users: Sequence[str], body: ActBody) -> list[Act]:
    name = request.match_info["act"]
    if body.everywhere and name != "logout":
        raise InvalidRequest([("everywhere", "goes with logout alone")])
    acts = await desk.acts.act(desk.at, users, CAUSES[name], desk.author(body.reason), everywhere=body.everywhere)
    made = sum(isinstance(done.outcome, Status) and done.outcome is not done.came_from for done in acts)
    request[keys.EXCHANGE].gate.pulse.transition(desk.at, made)
    return acts


@for_operators
async def forget(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Forget a user, unless it is terminated."""
    body = await read_body(request, Told)
    before = await desk.acts.forget(desk.at, read_user(request), desk.author(body.reason))
    if before is Status.NONE:
        raise NotFound("Nothing is kept of this user")
    if before is Status.TERMINATED:
        raise Conflict("A terminated user is not forgotten")
    return done(request)


@for_operators
async def restrict(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Restrict the tenant, or one user, from a capability; for good or until a moment."""
    body = await read_body(request, RestrictBody)
    await desk.acts.restrict(
        desk.at,
        _user(request),
        request.match_info["capability"],
        desk.author(body.reason),
        until_ms=moment_ms(body.until),
    )
    return done(request)


@for_operators
async def unrestrict(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Lift a restriction."""
    body = await read_body(request, Told)
    capability = request.match_info["capability"]
    if not await desk.acts.unrestrict(desk.at, _user(request), capability, desk.author(body.reason)):
        raise NotFound("There is no such restriction; those of the configuration are lifted there")
    return done(request)


@for_operators
async def revoke(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Refuse the tokens that were issued up to a moment."""
    body = await read_body(request, RevokeBody)
    before_ms = moment_ms(body.before)
    before_s = None if before_ms is None else before_ms // 1000
    since_s = await desk.acts.revoke(desk.at, _user(request), desk.author(body.reason), before_s=before_s)
    return success(request, {"revokedBefore": _time(since_s * 1000)})


@for_operators
async def restore(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Refuse no token for when it was issued any more."""
    body = await read_body(request, Told)
    await desk.acts.restore(desk.at, _user(request), desk.author(body.reason))
    return done(request)


@for_viewers
async def limits(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The tenant's limits: as configured, and as they hold."""
    rules = await desk.acts.rules(desk.at)
    listed = []
    for limit in desk.tenant.limits.values():
        requests, window_s = rules.limits.get(limit.name, (limit.requests, limit.window_s))
        told = {"limit": limit.name, "per": limit.per, "shadow": limit.shadow, "requests": requests, "window": window_s}
        listed.append({**told, "configured": {"requests": limit.requests, "window": limit.window_s}})
    return success(request, {"limits": listed})


@for_viewers
async def peek(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Where a subject stands within a limit, without using it up."""
    limit = _limit_of(request, desk)
    subject = _fitting(limit, read_query(request, SubjectQuery).subject)
    [standing] = await desk.acts.peek(desk.at, [(limit, subject)])
    return success(request, _standing(standing))


@for_operators
async def reset(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Give a subject of a limit its whole quota back."""
    body = await read_body(request, ResetBody)
    limit = _limit_of(request, desk)
    subject = _fitting(limit, body.subject)
    used = await desk.acts.reset_limit(desk.at, limit.name, subject, desk.author(body.reason))
    return success(request, {"success": True, "wasUsed": used})


@for_operators
async def set_limit(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Set a limit over the configuration's, for this tenant."""
    body = await read_body(request, LimitBody)
    limit = _limit_of(request, desk)
    await desk.acts.set_limit(desk.at, limit.name, body.requests, body.window, desk.author(body.reason))
    return done(request)


@for_operators
async def unset_limit(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Let the configuration's limit hold again."""
    body = await read_body(request, Told)
    limit = request.match_info["limit"]
    if not await desk.acts.unset_limit(desk.at, limit, desk.author(body.reason)):
        raise NotFound("This limit is the configuration's")
    return done(request)


def session_data(tenant: str, session: Session) -> dict[str, Any]:
    """A session, as `/auth/status` tells it."""
    return {
        "tenant": tenant,
        "userId": session.user,
        "status": session.status,
        "previousStatus": session.previous,
        "since": _time(session.since_ms),
        "lastSeen": _time(session.seen_ms),
        "tokenExpiresAt": _time(session.expires_ms),
    }


def _rules(rules: Rules) -> dict[str, Any]:
    limits = {name: {"requests": requests, "window": window_s} for name, (requests, window_s) in rules.limits.items()}
    return {
        "restrictions": [{"capability": name, "until": _time(until)} for name, until in rules.restrictions.items()],
        "revokedBefore": None if rules.revoked_before_s is None else _time(rules.revoked_before_s * 1000),
        "limits": limits,
    }


def _result(done: Act, name: str) -> dict[str, Any]:
    if isinstance(done.outcome, Refusal):
        unknown = done.outcome is Refusal.UNKNOWN
        message = "Nothing is kept of this user" if unknown else _conflict(done, name)
        return {"userId": done.user, "done": False, "status": done.came_from, "message": message}
    return {"userId": done.user, "done": True, "status": done.outcome, "previousStatus": done.came_from}


def _conflict(done: Act, name: str) -> str:
    return f"{name} conflicts with the status {done.came_from.value}"


def _standing(standing: Standing) -> dict[str, Any]:
    limit = standing.limit
    return {
        "limit": limit.name,
        "requests": limit.requests,
        "window": limit.window_s,
        "used": standing.used,
        "remaining": standing.remaining,
        "reset": standing.reset_s,
    }


def _fitting(limit: Limit, subject: str) -> str:
    """`subject`, where the limit counts such."""
    if limit.per is Per.IP and not is_counted(subject):
        raise InvalidRequest([("subject", "must be an address as limits count it, such as 10.0.0.1 or 2001:db8::/64")])
    if limit.per is Per.TENANT and subject != "-":
        raise InvalidRequest([("subject", "must be - : the limit counts the tenant as a whole")])
    return subject


def _limit_of(request: web.Request, desk: Desk) -> Limit:
    limit = desk.tenant.limits.get(request.match_info["limit"])
    if limit is None:
        raise NotFound("There is no such limit")
    return limit


def _user(request: web.Request) -> str | None:
    """The user whom the address is about; None: it is about the tenant."""
    resource = request.match_info.route.resource
    about = resource.canonical.split("/") if resource is not None else []
    return read_user(request) if {"user", "{user}"} & set(about) else None


def _cursor(text: str | None) -> Cursor | None:
    try:
        return None if text is None else Cursor.parse(text)
    except ValueError:
        raise InvalidRequest([("after", "must be the `next` of a page")]) from None


def _time(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def routes(root: str) -> list[web.RouteDef]:
    """The API under `root`."""
    at = f"{root}/tenants/{{tenant}}"
    name = r"{limit:[^/]+}"
    acting = "{act:" + "|".join(CAUSES) + "}"
    # By query as well: browsers and proxies take a user called `..` out of a path.
    by_path, by_query = f"{at}/users/{{user:[^/]+}}", f"{at}/user"
    found = [
        web.get(f"{root}/events", events),
        web.get(f"{root}/tenants", tenants),
        web.get(at, tenant),
        web.get(f"{at}/activity", activity),
        web.get(f"{at}/webhooks", webhooks),
        web.get(f"{at}/sessions", sessions),
        web.post(f"{at}/sessions/{acting}", act_on_many),
        web.get(f"{at}/limits", limits),
        web.get(f"{at}/limits/{name}", peek),
        web.put(f"{at}/limits/{name}", set_limit),
        web.delete(f"{at}/limits/{name}", unset_limit),
        web.post(f"{at}/limits/{name}/reset", reset),
    ]
    for user in (by_path, by_query):
        found += [web.get(user, session), web.delete(user, forget), web.post(f"{user}/{acting}", act)]
    for whose in (at, by_path, by_query):
        found += [
            web.put(f"{whose}/restrictions/{{capability:[A-Za-z0-9._:-]{{1,64}}}}", restrict),
            web.delete(f"{whose}/restrictions/{{capability:[A-Za-z0-9._:-]{{1,64}}}}", unrestrict),
            web.put(f"{whose}/revocation", revoke),
            web.delete(f"{whose}/revocation", restore),
        ]
    return found
