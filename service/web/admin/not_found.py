"""Messages of the 404 answers under the admin API: each names the path or the actions that exist."""

import re

from service.web.dashboard.pages import API

ACTIONS = ("logout", "suspend", "reinstate", "terminate")
"""The last segment of a path that acts on users."""

ROOT = "/admin/v1"
_TENANT = r"/tenants/[^/]+"
_HINTS = (
    (re.compile(rf"{_TENANT}/users/?"), f"Not Found: GET {ROOT}/tenants/{{tenant}}/sessions lists the users"),
    (
        re.compile(rf"{_TENANT}/(?:users/[^/]+|user|sessions)/[^/]+/?"),
        f"There is no such action: the actions are {', '.join(ACTIONS)}",
    ),
)


def message_for(path: str) -> str | None:
    """Return the message for a path that has no route; None if the path is not under the admin API.

    The message repeats nothing of the path, which may hold a token.
    """
    if path in ("/admin", "/admin/"):
        return f"Not Found: the admin API is at {ROOT}"
    for root in (ROOT, API):
        if path.startswith(f"{root}/"):
            below = path[len(root) :]
            found = next((hint for pattern, hint in _HINTS if pattern.fullmatch(below)), None)
            return found or f"Not Found: GET {ROOT} lists the routes"
    return None
