"""The table that maps errors to codes and statuses."""

import errno
from typing import NamedTuple

from aiohttp import web

from service.core import errors

_TABLE: dict[type[errors.DomainError], tuple[str, int]] = {
    errors.MissingTenantToken: ("MISSING_TENANT_TOKEN", 401),
    errors.InvalidTenantToken: ("INVALID_TENANT_TOKEN", 401),
    errors.MissingUserToken: ("MISSING_USER_TOKEN", 401),
    errors.InvalidUserToken: ("INVALID_USER_TOKEN", 401),
    errors.ExpiredUserToken: ("EXPIRED_USER_TOKEN", 401),
    errors.Unauthorized: ("UNAUTHORIZED", 401),
    errors.UserSuspended: ("USER_SUSPENDED", 403),
    errors.UserTerminated: ("USER_TERMINATED", 403),
    errors.RestrictedCapability: ("RESTRICTED_CAPABILITY", 403),
    errors.Forbidden: ("FORBIDDEN", 403),
    errors.UnreadableRequest: ("BAD_REQUEST", 400),
    errors.InvalidRequest: ("VALIDATION_ERROR", 400),
    errors.NotFound: ("NOT_FOUND", 404),
    errors.Conflict: ("CONFLICT", 409),
    errors.TooManyRequests: ("TOO_MANY_REQUESTS", 429),
    errors.KeysUnavailable: ("SERVICE_UNAVAILABLE", 503),
    errors.StoreUnavailable: ("SERVICE_UNAVAILABLE", 503),
    errors.UnexpectedState: ("UNEXPECTED_STATE", 500),
}

_HTTP: dict[int, tuple[str, str]] = {
    403: ("FORBIDDEN", "Forbidden"),
    404: ("NOT_FOUND", "Not Found"),
    405: ("METHOD_NOT_ALLOWED", "Method Not Allowed"),
    413: ("PAYLOAD_TOO_LARGE", "Payload Too Large"),
}


CODES = {
    **dict(_TABLE.values()),
    **{code: status for status, (code, _) in _HTTP.items()},
    "BAD_REQUEST": 400,
    "INTERNAL_SERVER": 500,
}
"""Code → status, for all codes."""


class Problem(NamedTuple):
    """An error as the client gets it."""

    code: str
    status: int
    message: str


BAD_REQUEST = Problem("BAD_REQUEST", 400, "Bad Request")
INTERNAL = Problem("INTERNAL_SERVER", 500, errors.DomainError.message)


def problem_of(error: Exception) -> Problem:
    """Return what the client gets for `error`. Of the 5xx, only UNEXPECTED_STATE has a text of its own."""
    if isinstance(error, errors.DomainError):
        kind = type(error)
        row = _TABLE.get(kind) or next((_TABLE[base] for base in kind.__mro__ if base in _TABLE), None)
        return INTERNAL if row is None else Problem(*row, str(error))
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = web.HTTPNotFound()  # a static file with a name that no file can have
    if isinstance(error, web.HTTPException) and error.status < 500:
        code, message = _HTTP.get(error.status, (BAD_REQUEST.code, BAD_REQUEST.message))
        return Problem(code, error.status if error.status in _HTTP else BAD_REQUEST.status, message)
    return INTERNAL
