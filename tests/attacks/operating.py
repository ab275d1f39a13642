"""What operators can ask for, read off the application's own router, and how their browsers log in."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from service.web.admin.routes import CAUSES
from tests.attacks.conftest import COOKIE, Target
from tests.attacks.raw_http import Fields, described
from tests.kit import Answer

ADMIN, DASHBOARD = "/admin/v1", "/dashboard/api"
FORM = ("content-type", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Wish:
    """A request of the admin API that does something, once it is let."""

    method: str
    route: str
    path: str
    body: bytes

    @property
    def changes(self) -> bool:
        """Whether it is to change anything."""
        return self.method != "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def wishes(target: Target, root: str = ADMIN, tenant: str = "acme", user: str = "alice") -> Iterator[Wish]:
    """One for each route of the admin API under `root`, about this tenant and this user."""
    fill = {"tenant": tenant, "user": user, "limit": "status-ip", "capability": "status"}
    fill |= {"webhook": "audit", "leftover": "gone"}
    for route in target.app.router.routes():
        canonical = route.resource.canonical if route.resource else ""
        if not canonical.startswith(f"{root}/") or route.method == "HEAD":
            continue
        for act in CAUSES if "{act}" in canonical else ("",):
            named = canonical.replace("{act}", act)
            path = re.sub(r"\{(\w+)\}", lambda found: fill[found[1]], named)
            path += _query(route.method, path, tenant, user)
            body = b"" if route.method == "GET" else json.dumps(_body(route.method, named, user)).encode()
            short = re.sub(r"\{(\w)\w*\}", lambda found: found[1].upper(), named.removeprefix(root))
            yield Wish(route.method, short, path, body)


def _query(method: str, path: str, tenant: str, user: str) -> str:
    if "user" in path.split("/"):
        return f"?user={user}"
    if path.endswith("/events"):
        return f"?tenant={tenant}"
    return "?subject=10.0.0.1" if method == "GET" and path.endswith("/limits/status-ip") else ""


def _body(method: str, route: str, user: str) -> dict[str, Any]:
    if "/sessions/" in route:
        return {"users": [user]}
    if route.endswith("/reset"):
        return {"subject": "127.0.0.1"}
    return {"requests": 599, "window": 60} if method == "PUT" and "/limits/" in route else {}


def bearer(token: str) -> list[tuple[str, str]]:
    """The fields of an operator's program."""
    return [("authorization", f"Bearer {token}")]


@dataclass(frozen=True)
class Browser:
    """A browser: its cookie, and the token of its forms."""

    cookie: str
    csrf: str

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What it sends by itself."""
        return [("cookie", f"{COOKIE}={self.cookie}")]

    def acting(self, **changes: str) -> list[tuple[str, str]]:
        """What it sends when a page of ours acts."""
        said = {"x-csrf-token": self.csrf, "sec-fetch-site": "same-origin", **changes}
        return [*self.fields, *said.items()]


def cookie_of(answer: Answer) -> str:
    """The cookie that an answer sets."""
    return answer.headers["set-cookie"].partition(";")[0].removeprefix(f"{COOKIE}=").strip('"')


def csrf_of(page: Answer) -> str:
    """The token of a page's forms."""
    found = re.search(rb'name="csrf" value="([^"]+)"', page.body)
    assert found is not None
    return found[1].decode()


async def stranger(target: Target) -> Browser:
    """A browser before it logs in."""
    page = await target.ask("GET", "/dashboard/login")
    return Browser(cookie_of(page), csrf_of(page))


async def try_to_log_in(target: Target, token: str, fields: Fields = (), **form: str) -> Answer:
    """The answer to a login."""
    browser = await stranger(target)
    body = urlencode({"csrf": browser.csrf, "token": token, **form}).encode()
    return await target.ask("POST", "/dashboard/login", [*browser.fields, FORM, *fields], body)


async def log_in(target: Target, token: str) -> Browser:
    """A browser of whoever that token is."""
    answer = await try_to_log_in(target, token)
    assert answer.status == 303, described(answer)
    cookie = cookie_of(answer)
    page = await target.ask("GET", "/dashboard", [("cookie", f"{COOKIE}={cookie}")])
    return Browser(cookie, csrf_of(page))
