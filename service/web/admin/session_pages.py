"""Which page of sessions a query asks for."""

from service.core.errors import InvalidRequest
from service.core.session_lists import Cursor, Page, WalkCursor, parse_cursor
from service.core.sessions import RECORDED, Status
from service.web.admin.authorization import AdminServices
from service.web.admin.schemas import SessionsQuery


async def page_of(admin: AdminServices, query: SessionsQuery) -> Page:
    """Return one user, or a page in the order that is asked for.

    Raises:
        InvalidRequest: the members of the query do not fit each other.
        StoreUnavailable: Redis does not answer.
    """
    statuses = RECORDED if query.status is None else [query.status]
    if Status.NONE in statuses:
        raise InvalidRequest([("status", f"must be one of {', '.join(RECORDED)}")])
    if query.user is not None:
        found = await admin.sessions.get(admin.at, query.user)
        return Page((found,) if found and found.status in statuses else (), None)
    after = _cursor(query.after)
    if isinstance(after, Cursor) or query.order == "lastSeen":
        if query.prefix:
            raise InvalidRequest([("order", "must be index, or left out, with a prefix")])
        if isinstance(after, WalkCursor):
            raise InvalidRequest([("after", "must be the `next` of a page in this order")])
        return await admin.sessions.page(admin.at, statuses=statuses, after=after, size=query.limit)
    walk = admin.sessions.walk_page
    return await walk(admin.at, statuses=statuses, prefix=query.prefix, after=after, size=query.limit)


def _cursor(text: str | None) -> Cursor | WalkCursor | None:
    try:
        return None if text is None else parse_cursor(text)
    except ValueError:
        raise InvalidRequest([("after", "must be the `next` of a page")]) from None
