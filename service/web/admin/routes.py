"""Routes and handlers of the admin API: sessions, actions on them, restrictions, limits."""

from collections.abc import Sequence

from aiohttp import web

from service.core.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from service.core.limits import Limit, Per
from service.core.operator_actions import ActionResult, Rules
from service.core.sessions import Cause, Refusal, Status
from service.web import app_keys
from service.web.admin import leftovers, webhooks
from service.web.admin.answers import (
    act_data,
    conflict,
    limit_state_data,
    moment,
    result_data,
    revoked_data,
    rules_data,
    session_data,
    unknown_capability,
)
from service.web.admin.authorization import AdminServices, for_operators, for_viewers
from service.web.admin.event_stream import events
from service.web.admin.not_found import ACTIONS, ROOT
from service.web.admin.schemas import (
    MAX_USERS,
    ActBody,
    LimitBody,
    LogoutBody,
    LogoutManyBody,
    ManyBody,
    ReasonBody,
    ReplaceQuery,
    ResetBody,
    RestrictBody,
    RevokeBody,
    SessionsQuery,
    SubjectQuery,
    UserReplaceQuery,
    moment_ms,
    read_body,
    read_query,
    read_user,
    read_user_and_events,
)
from service.web.admin.session_pages import page_of
from service.web.api.client_address import is_counted
from service.web.api.envelope import done, success

HISTORY_SIZE = 100
CAUSES = dict(
    zip(ACTIONS, (Cause.OPERATOR_LOGOUT, Cause.SUSPEND, Cause.REINSTATE, Cause.TERMINATE), strict=True),
)
"""Action, as the path names it → its cause."""


@for_viewers
async def index(request: web.Request, _: AdminServices) -> web.StreamResponse:
    """The routes to begin with, as URI templates (RFC 6570)."""
    tenant = f"{ROOT}/tenants/{{tenant}}"
    links = {
        "tenants": f"{ROOT}/tenants",
        "tenant": tenant,
        "sessions": f"{tenant}/sessions{{?status,user,prefix,order,after,limit}}",
        "user": f"{tenant}/users/{{user}}",
        "action": f"{tenant}/users/{{user}}/{{{'|'.join(CAUSES)}}}",
        "limits": f"{tenant}/limits",
        "activity": f"{tenant}/activity",
        "webhooks": f"{tenant}/webhooks",
        "events": f"{ROOT}/events{{?tenant}}",
        "description": "/openapi.json",
    }
    return success(request, {"links": links})


@for_viewers
async def tenants(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """List the operator's tenants, with the number of users in each status."""
    known = request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants
    names = sorted(name for name in known if admin.operator.sees(name))
    counts = await admin.sessions.counts(names) if names else {}
    return success(request, {"tenants": [{"tenant": name, "counts": counts[name]} for name in names]})


@for_viewers
async def tenant(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show one tenant: counts, restrictions, revocation and limits."""
    counts = await admin.sessions.counts([admin.at])
    rules = await admin.actions.rules(admin.at)
    configured = {"restrictedByConfiguration": sorted(admin.tenant.restricted)}
    return success(
        request, {"tenant": admin.at, "counts": counts[admin.at], **configured, **rules_data(rules, admin.skew_ms)}
    )


@for_viewers
async def activity(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show the last hour: transitions and refusals in buckets, and the addresses that were refused most."""
    found = await request.app[app_keys.TRAFFIC_STATISTICS].activity(admin.at)
    data = {
        "bucketSeconds": found.bucket_s,
        "until": moment(found.ends_s * 1000),
        "transitions": found.transitions,
        "refusals": found.refusals,
        "shadowRefusals": found.shadow,
        "addresses": [{"address": address, "refusals": many} for address, many in found.addresses],
        "shadowLimits": [{"limit": limit, "refusals": many} for limit, many in found.shadow_limits.items()],
    }
    return success(request, data)


@for_viewers
async def sessions(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """List sessions: a page of all or newest first, one user, or users with a prefix."""
    query = read_query(request, SessionsQuery)
    page = await page_of(admin, query)
    listed = [session_data(admin.at, one) for one in page.sessions]
    following = str(page.after) if page.after else None
    latest_ms = max([one.changed_ms for one in page.sessions], default=0)
    return success(request, {"sessions": listed, "next": following, "examined": page.examined}, latest_ms=latest_ms)


@for_viewers
async def session(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show one user: session, restrictions, revocation, recent events."""
    user, begin = read_user_and_events(request)
    found = await admin.sessions.get(admin.at, user)
    rules = await admin.actions.rules(admin.at, user)
    history = await admin.histories.history(admin.at, user, most=HISTORY_SIZE, begin=begin)
    nothing = not history.events and history.following is None and not begin
    if found is None and nothing and rules == Rules():
        raise NotFound("Nothing is recorded of this user")
    data = {
        "session": session_data(admin.at, found) if found else None,
        **rules_data(rules, admin.skew_ms),
        "events": [event.as_dict() for event in history.events],
        "eventsReachBackTo": moment(history.reaches_back_to_ms),
        "eventsNext": history.following,
    }
    del data["limits"]  # only a tenant has them
    moments_ms = [event.at_ms for event in history.events] + ([found.changed_ms] if found else [])
    return success(request, data, latest_ms=max(moments_ms, default=0))


@for_operators
async def act(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Log out, suspend, reinstate or terminate one user."""
    schema: type[ActBody | LogoutBody] = LogoutBody if request.match_info["act"] == "logout" else ActBody
    body = await read_body(request, schema)
    [done] = await _act(request, admin, [read_user(request)], body)
    if done.outcome is Refusal.UNREADABLE:
        raise StoreUnavailable("the record or the rules of the user cannot be read", "record")
    if done.outcome is Refusal.UNKNOWN:
        raise NotFound("Nothing is recorded of this user")
    if isinstance(done.outcome, Refusal) or done.session is None:
        raise Conflict(conflict(done, request.match_info["act"]))
    data = {**session_data(admin.at, done.session), "applied": done.applied, **act_data(done, admin.skew_ms)}
    return success(request, data, latest_ms=done.session.changed_ms)


@for_operators
async def act_on_many(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """The same for up to 1,000 users, or for all users of a status in several calls, with a result for each."""
    schema: type[ManyBody | LogoutManyBody] = LogoutManyBody if request.match_info["act"] == "logout" else ManyBody
    body = await read_body(request, schema)
    following: str | None = None
    if body.status is None:
        users = list(dict.fromkeys(body.users))
    else:
        # A walk over the index returns each user that has the status from its beginning to its end.
        users, position = await admin.sessions.walk(admin.at, body.status, int(body.after or "0"), size=MAX_USERS)
        following = str(position) if position else None
    actions = await _act(request, admin, users, body) if users else []
    results = [result_data(done, request.match_info["act"], admin.skew_ms) for done in actions]
    return success(request, {"results": results} | ({} if body.status is None else {"next": following}))


async def _act(
    request: web.Request, admin: AdminServices, users: Sequence[str], body: ActBody | LogoutBody
) -> list[ActionResult]:
    name = request.match_info["act"]
    actions = await admin.actions.act(
        admin.at, users, CAUSES[name], admin.author(body.reason), everywhere=body.everywhere, skew_ms=admin.skew_ms
    )
    metrics = request[app_keys.REQUEST_CONTEXT].services.metrics
    for one in actions:
        if isinstance(one.outcome, Status) and one.outcome is not one.came_from:
            metrics.count_transition(one.came_from, one.outcome, CAUSES[name])
    made = sum(isinstance(done.outcome, Status) and done.outcome is not done.came_from for done in actions)
    request[app_keys.REQUEST_CONTEXT].services.traffic.transition(admin.at, made)
    return actions


@for_operators
async def forget(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Forget a user, unless it is terminated."""
    body = await read_body(request, ReasonBody)
    before = await admin.actions.forget(admin.at, read_user(request), admin.author(body.reason))
    if before is Status.NONE:
        raise NotFound("Nothing is recorded of this user")
    if before is Status.TERMINATED:
        raise Conflict("A terminated user cannot be forgotten")
    return done(request)


@for_operators
async def restrict(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Restrict the tenant or one user from a capability, for good or until a moment. A longer restriction stays."""
    user, replace = _user_and_replace(request)
    body = await read_body(request, RestrictBody)
    capability = request.match_info["capability"]
    held = await admin.actions.restrict(
        admin.at,
        user,
        capability,
        admin.author(body.reason),
        until_ms=moment_ms(body.until),
        replace=replace,
    )
    data = {"success": True, "applied": held.applied, "until": moment(held.until_ms)}
    note = {} if capability in admin.tenant.capabilities else {"note": unknown_capability(capability)}
    return success(request, data | note)


@for_operators
async def unrestrict(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Lift a restriction."""
    body = await read_body(request, ReasonBody)
    capability = request.match_info["capability"]
    if not await admin.actions.unrestrict(admin.at, _user(request), capability, admin.author(body.reason)):
        raise NotFound("There is no such restriction; one of the configuration is lifted in the configuration")
    return done(request)


@for_operators
async def revoke(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Revoke the tokens that were issued up to a moment. A later moment that is set already stays."""
    user, replace = _user_and_replace(request)
    body = await read_body(request, RevokeBody)
    before_ms, author = moment_ms(body.before), admin.author(body.reason)
    held = await admin.actions.revoke(
        admin.at, user, author, before_ms=before_ms, skew_ms=admin.skew_ms, replace=replace
    )
    session = None if user is None else await admin.sessions.get(admin.at, user)
    data = revoked_data(held.before_s, session, skew_ms=admin.skew_ms, clocks_apart_s=held.clocks_apart_s)
    return success(request, {"applied": held.applied, **data})


@for_operators
async def restore(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Lift the revocation."""
    body = await read_body(request, ReasonBody)
    lifted = await admin.actions.restore(admin.at, _user(request), admin.author(body.reason))
    return success(request, {"success": True, "applied": lifted})


@for_viewers
async def limits(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """List the tenant's limits, as configured and as they apply."""
    rules = await admin.actions.rules(admin.at)
    listed = []
    for limit in admin.tenant.limits.values():
        requests, window_s = rules.limits.get(limit.name, (limit.requests, limit.window_s))
        data = {"limit": limit.name, "per": limit.per, "shadow": limit.shadow, "requests": requests, "window": window_s}
        listed.append({**data, "configured": {"requests": limit.requests, "window": limit.window_s}})
    return success(request, {"limits": listed})


@for_viewers
async def peek(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Show how much of a limit a subject has used, without using any."""
    limit = _limit_of(request, admin)
    subject = _fitting(limit, read_query(request, SubjectQuery).subject)
    [limit_state] = await admin.actions.peek(admin.at, [(limit, subject)])
    return success(request, limit_state_data(limit_state))


@for_operators
async def reset(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Restore the whole quota of a subject."""
    body = await read_body(request, ResetBody)
    limit = _limit_of(request, admin)
    subject = _fitting(limit, body.subject)
    used = await admin.actions.reset_limit(admin.at, limit.name, subject, admin.author(body.reason))
    return success(request, {"success": True, "wasUsed": used})


@for_operators
async def set_limit(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Set a limit of this tenant in place of the configured one. The last value applies."""
    body = await read_body(request, LimitBody)
    limit = _limit_of(request, admin)
    held = await admin.actions.set_limit(admin.at, limit, body.requests, body.window, admin.author(body.reason))
    requests, window_s = held.previous
    data = {"requests": body.requests, "window": body.window, "previous": {"requests": requests, "window": window_s}}
    return success(request, {"success": True, "applied": held.applied, **data})


@for_operators
async def unset_limit(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Return to the configured limit."""
    body = await read_body(request, ReasonBody)
    name = request.match_info["limit"]
    if not await admin.actions.unset_limit(admin.at, name, admin.tenant.limits.get(name), admin.author(body.reason)):
        raise NotFound("This limit is as configured")
    return done(request)


def _fitting(limit: Limit, subject: str) -> str:
    """Return `subject`. Raises InvalidRequest if the limit does not count such subjects."""
    if limit.per is Per.IP and not is_counted(subject):
        raise InvalidRequest([("subject", "must be an address as limits count it, such as 10.0.0.1 or 2001:db8::/64")])
    if limit.per is Per.TENANT and subject != "-":
        raise InvalidRequest([("subject", "must be - : the limit counts the tenant as a whole")])
    return subject


def _limit_of(request: web.Request, admin: AdminServices) -> Limit:
    limit = admin.tenant.limits.get(request.match_info["limit"])
    if limit is None:
        raise NotFound("There is no such limit")
    return limit


def _user(request: web.Request) -> str | None:
    """Return the user that the path or the query names; None: the route concerns the tenant."""
    return read_user(request) if _is_about_a_user(request) else None


def _user_and_replace(request: web.Request) -> tuple[str | None, bool]:
    """The same, and whether to replace a stricter setting."""
    if _is_about_a_user(request) and "user" not in request.match_info:
        query = read_query(request, UserReplaceQuery)
        return query.user, query.replace
    replace = read_query(request, ReplaceQuery).replace
    return _user(request), replace


def _is_about_a_user(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    about = resource.canonical.split("/") if resource is not None else []
    return bool({"user", "{user}"} & set(about))


def routes(root: str) -> list[web.RouteDef]:
    """Return the routes of the API under `root`."""
    at = f"{root}/tenants/{{tenant}}"
    name = r"{limit:[^/]+}"
    acting = "{act:" + "|".join(CAUSES) + "}"
    # By query as well: browsers and proxies remove a user called `..` from a path.
    by_path, by_query = f"{at}/users/{{user:[^/]+}}", f"{at}/user"
    found = [
        web.get(root, index),
        web.get(f"{root}/events", events),
        web.get(f"{root}/tenants", tenants),
        web.get(f"{root}/leftovers", leftovers.leftovers),
        web.delete(f"{root}/leftovers/{{leftover:[a-z0-9_-]{{1,64}}}}", leftovers.remove),
        web.get(at, tenant),
        web.get(f"{at}/activity", activity),
        web.get(f"{at}/webhooks", webhooks.webhooks),
        web.get(f"{at}/webhooks/{{webhook}}", webhooks.webhook),
        web.post(f"{at}/webhooks/{{webhook}}/pause", webhooks.pause_webhook),
        web.post(f"{at}/webhooks/{{webhook}}/resume", webhooks.resume_webhook),
        web.post(f"{at}/webhooks/{{webhook}}/skip", webhooks.skip_message),
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
