"""The request fields that answers depend on, for `Vary` (RFC 9110, section 12.5.5).

Some client-side caches ignore `cache-control: no-store` and read `Vary`: without it they return one user's answer to
another.
"""

CREDENTIALS = "x-tenant-token, x-token, authorization, x-passive"
"""Read under `/auth/`."""
LOGOUT = f"{CREDENTIALS}, sec-purpose"
ORIGIN = ", origin"
"""Read under `/auth/` where CORS is configured."""


def verify(*original: str) -> str:
    """Return the fields that a profile of verify reads, with those of the original request."""
    return ", ".join((CREDENTIALS, *original, "prefer"))


def fields_read_at(path: str) -> str:
    """Return the fields that decide an answer at `path` if no operation is known; empty: there are none."""
    if path.startswith("/auth/"):
        return CREDENTIALS
    if path.startswith("/admin/") or path == "/metrics":
        return "authorization"
    if path.startswith("/dashboard/static/"):
        return ""
    if path == "/dashboard" or path.startswith("/dashboard/"):
        return "cookie"
    return "accept" if path == "/" else ""
