"""What is kept of tenants that are not configured: for operators of all tenants."""

from aiohttp import web

from service.core.errors import Conflict, Forbidden, NotFound
from service.web import app_keys
from service.web.admin.authorization import AdminServices, for_operators, for_viewers
from service.web.admin.schemas import RemovalQuery, read_query
from service.web.api.envelope import success


@for_viewers
async def leftovers(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """List what is kept of tenants that are not configured."""
    found = await request.app[app_keys.LEFTOVERS].of(_configured(request, admin))
    listed = [{"tenant": one.tenant, "counts": one.counts, "hasRules": one.has_rules} for one in found]
    return success(request, {"tenants": listed})


@for_operators
async def remove(request: web.Request, admin: AdminServices) -> web.StreamResponse:
    """Remove a part of what is kept of a tenant that is not configured, terminated users too, until `next` is null."""
    name, query = request.match_info["leftover"], read_query(request, RemovalQuery)
    if name in _configured(request, admin):
        raise Conflict("The tenant is configured: remove it from the configuration first")
    leftovers = request.app[app_keys.LEFTOVERS]
    if query.after is None and not await leftovers.is_kept(name):
        raise NotFound("Nothing is kept of this tenant")
    removed = await leftovers.remove(name, query.after or "")
    return success(request, {"success": True, "removed": removed.keys, "next": removed.following})


def _configured(request: web.Request, admin: AdminServices) -> frozenset[str]:
    """Return the names of all configured tenants. Raises Forbidden unless the operator may see all tenants."""
    if "*" not in admin.operator.tenants:
        raise Forbidden
    return frozenset(request.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants)
