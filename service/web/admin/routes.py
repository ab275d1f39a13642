"""The admin API: sessions, what operators do to them, restrictions and limits. Thin handlers over `Desk`."""

from collections.abc import Sequence

from aiohttp import web

from service.core.errors import Conflict, InvalidRequest, NotFound
from service.core.limits import Limit, Per
from service.core.operator_actions import Act, Rules
from service.core.session_lists import Cursor, Page
from service.core.sessions import RECORDED, Cause, Refusal, Status
from service.web import app_keys
from service.web.admin.answers import (
    conflict,
    moment,
    result_data,
    revoked_data,
    rules_data,
    session_data,
    standing_data,
)
from service.web.admin.authorization import Desk, for_operators, for_viewers
from service.web.admin.event_stream import events
from service.web.admin.schemas import (
    ActBody,
    LimitBody,
    ManyBody,
    ReplaceQuery,
    ResetBody,
    RestrictBody,
    RevokeBody,
    SessionsQuery,
    SubjectQuery,
    Told,
    UserReplaceQuery,
    moment_ms,
    read_body,
    read_query,
    read_user,
)
from service.web.api.client_address import is_counted
from service.web.api.envelope import done, success

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
    known = request.app[app_keys.GATE].policy.current.directory.tenants
    names = sorted(name for name in known if desk.operator.sees(name))
    counts = await desk.sessions.counts(names) if names else {}
    return success(request, {"tenants": [{"tenant": name, "counts": counts[name]} for name in names]})


@for_viewers
async def tenant(request: web.Request, desk: Desk) -> web.StreamResponse:
    """One tenant: counts, and what operators have set."""
    counts = await desk.sessions.counts([desk.at])
    rules = await desk.acts.rules(desk.at)
    configured = {"restrictedByConfiguration": sorted(desk.tenant.restricted)}
    return success(request, {"tenant": desk.at, "counts": counts[desk.at], **configured, **rules_data(rules)})


@for_viewers
async def activity(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The last hour: transitions and refusals in buckets, and who was refused most."""
    found = await request.app[app_keys.PULSES].activity(desk.at)
    told = {
        "bucketSeconds": found.bucket_s,
        "until": moment(found.ends_s * 1000),
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
    latest_ms = max([one.changed_ms for one in page.sessions], default=0)
    return success(request, {"sessions": listed, "next": following, "examined": page.examined}, latest_ms=latest_ms)


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
        **rules_data(rules),
        "events": [event.told() for event in history.events],
        "eventsReachBackTo": moment(history.reaches_back_to_ms),
    }
    del told["limits"]  # a tenant's alone
    moments_ms = [event.at_ms for event in history.events] + ([found.changed_ms] if found else [])
    return success(request, told, latest_ms=max(moments_ms, default=0))


@for_viewers
async def webhooks(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The tenant's webhooks: how far each has been told, and how it goes."""
    told = []
    for name in desk.tenant.webhooks:
        state = await request.app[app_keys.HOOKS].state(desk.at, name)
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
        raise Conflict(conflict(done, request.match_info["act"]))
    revoked = revoked_data(done.revoked_before_s, done.session)
    told = {**session_data(desk.at, done.session), "applied": done.applied, **revoked}
    return success(request, told, latest_ms=done.session.changed_ms)


@for_operators
async def act_on_many(request: web.Request, desk: Desk) -> web.StreamResponse:
    """The same for up to 1,000 users, told one by one."""
    body = await read_body(request, ManyBody)
    acts = await _act(request, desk, list(dict.fromkeys(body.users)), body)
    return success(request, {"results": [result_data(done, request.match_info["act"]) for done in acts]})


async def _act(request: web.Request, desk: Desk, users: Sequence[str], body: ActBody) -> list[Act]:
    name = request.match_info["act"]
    if body.everywhere and name != "logout":
        raise InvalidRequest([("everywhere", "goes with logout alone")])
    acts = await desk.acts.act(
        desk.at, users, CAUSES[name], desk.author(body.reason), everywhere=body.everywhere, skew_ms=desk.skew_ms
    )
    made = sum(isinstance(done.outcome, Status) and done.outcome is not done.came_from for done in acts)
    request[app_keys.EXCHANGE].gate.pulse.transition(desk.at, made)
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
    """Restrict the tenant, or one user, from a capability; for good or until a moment. A longer restriction stays."""
    user, replace = _user_and_replace(request)
    body = await read_body(request, RestrictBody)
    held = await desk.acts.restrict(
        desk.at,
        user,
        request.match_info["capability"],
        desk.author(body.reason),
        until_ms=moment_ms(body.until),
        replace=replace,
    )
    return success(request, {"success": True, "applied": held.applied, "until": moment(held.until_ms)})


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
    """Refuse the tokens that were issued up to a moment. A later moment that is set already stays."""
    user, replace = _user_and_replace(request)
    body = await read_body(request, RevokeBody)
    before_ms, author = moment_ms(body.before), desk.author(body.reason)
    held = await desk.acts.revoke(desk.at, user, author, before_ms=before_ms, skew_ms=desk.skew_ms, replace=replace)
    if user is None:
        return success(request, {"applied": held.applied, **revoked_data(held.before_s)})
    session = await desk.sessions.get(desk.at, user)
    return success(request, {"applied": held.applied, **revoked_data(held.before_s, session)})


@for_operators
async def restore(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Refuse no token for when it was issued any more."""
    body = await read_body(request, Told)
    lifted = await desk.acts.restore(desk.at, _user(request), desk.author(body.reason))
    return success(request, {"success": True, "applied": lifted})


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
    return success(request, standing_data(standing))


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
    """Set a limit over the configuration's, for this tenant. The last one that was set holds."""
    body = await read_body(request, LimitBody)
    limit = _limit_of(request, desk)
    held = await desk.acts.set_limit(desk.at, limit, body.requests, body.window, desk.author(body.reason))
    requests, window_s = held.previous
    told = {"requests": body.requests, "window": body.window, "previous": {"requests": requests, "window": window_s}}
    return success(request, {"success": True, "applied": held.applied, **told})


@for_operators
async def unset_limit(request: web.Request, desk: Desk) -> web.StreamResponse:
    """Let the configuration's limit hold again."""
    body = await read_body(request, Told)
    name = request.match_info["limit"]
    if not await desk.acts.unset_limit(desk.at, name, desk.tenant.limits.get(name), desk.author(body.reason)):
        raise NotFound("This limit is the configuration's")
    return done(request)


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
    return read_user(request) if _is_about_a_user(request) else None


def _user_and_replace(request: web.Request) -> tuple[str | None, bool]:
    """The same, and whether what holds is to be replaced, also by something weaker."""
    if _is_about_a_user(request) and "user" not in request.match_info:
        query = read_query(request, UserReplaceQuery)
        return query.user, query.replace
    replace = read_query(request, ReplaceQuery).replace
    return _user(request), replace


def _is_about_a_user(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    about = resource.canonical.split("/") if resource is not None else []
    return bool({"user", "{user}"} & set(about))


def _cursor(text: str | None) -> Cursor | None:
    try:
        return None if text is None else Cursor.parse(text)
    except ValueError:
        raise InvalidRequest([("after", "must be the `next` of a page")]) from None


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
