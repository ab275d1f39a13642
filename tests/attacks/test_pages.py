"""The dashboard's pages: what strangers are called stays text, nobody frames a page, a login leads nowhere else."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import pytest

from tests.attacks.conftest import Attack, Target, of
from tests.attacks.operating import (
    DASHBOARD,
    FORM,
    Browser,
    bearer,
    log_in,
    stranger,
    try_to_log_in,
)
from tests.kit import OPERATOR_TOKEN, Answer, sign

CHANGES: dict[str, Any] = {"limits": {"admin": [], "login": [], "status": []}}
SUSPEND = f"{DASHBOARD}/tenants/acme/sessions/suspend"

SCRIPTS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><svg onload=alert(1)>',
    "'><svg onload=alert(1)>",
    '" autofocus onfocus=alert(1) x="',
    "' autofocus onfocus=alert(1) x='",
    "` onmouseover=alert(1) `",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<a href=javascript:alert(1)>x</a>",
    "</bdi></a></th><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<!--<script>alert(1)//-->",
    "-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<form action=//evil.example><button>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<template><script>alert(1)</script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "{{7*7}}{% raw %}",
    "{{config.__class__.__init__.__globals__}}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "%3Cscript%3E",
    "\uff1cscript\uff1e",
    "x\u2028alert(1)\u2029x",
    "+ADw-script+AD4-",
    '{"users": ["bob"], "everywhere": true}',
    '"}, "csrf": "',
    "=cmd|' /C calc'!A0",
    "|capability:x=y",
    "{chosen}",
]


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and what it would run or lead to."""

    def __init__(self, page: Answer) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.targets: list[str] = []
        self.feed(page.body.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.targets += [value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")]
        assert not any(name.startswith("on") or name in ("style", "srcdoc") for name, _ in attrs)


async def pages(target: Target, browser: Browser, user: str) -> list[Answer]:
    """Every page that shows this user, or repeats what is asked for."""
    named = urlencode({"tenant": "acme", "user": user, "subject": user, "status": "suspended"})
    unknown = urlencode({"tenant": "acme", "user": f"nobody {user}"})
    asked = [
        f"/dashboard?{named}",
        f"/dashboard?{named}&exact=1",
        "/dashboard?tenant=acme",
        f"/dashboard?{unknown}",
        f"/dashboard/user?{named}",
        f"/dashboard/user?{unknown}",
        f"/dashboard/rules?{named}",
        f"/dashboard?{urlencode({'tenant': user})}",
        f"/dashboard?{urlencode({'status': user})}",
        f"/dashboard?{urlencode({'after': user})}",
        f"/dashboard/{quote(user, safe='')}",
    ]
    found = [await target.ask("GET", path, browser.fields) for path in asked]
    anonymous = await stranger(target)
    form = urlencode({"csrf": anonymous.csrf, "token": user, "next": user}).encode()
    return [
        *found,
        await target.ask("GET", f"/dashboard/login?{urlencode({'next': user})}"),
        await target.ask("POST", "/dashboard/login", [*anonymous.fields, FORM], form),
        await target.ask("POST", "/dashboard/login", [FORM], form),
    ]


async def skeletons(target: Target, user: str) -> list[Skeleton]:
    """All pages after this user was seen, and suspended for a reason of the same text."""
    await target.redis.flushall()
    browser = await log_in(target, OPERATOR_TOKEN)
    assert (await target.ask(fields=of(sign(user)))).status == 200
    acted = json.dumps({"users": [user], "reason": user}).encode()
    assert (await target.ask("POST", SUSPEND, browser.acting(), acted)).data["results"][0]["done"]
    return [Skeleton(page) for page in await pages(target, browser, user)]


@pytest.mark.parametrize("text", SCRIPTS)
async def test_what_strangers_are_called_and_what_is_said_of_them_stays_text(
    target: Target, attack: Attack, text: str
) -> None:
    plain, hostile = await skeletons(target, "alice"), await skeletons(target, text)
    attack(text, f"text on {len(hostile)} pages")
    assert [page.elements for page in hostile] == [page.elements for page in plain]
    for page in hostile:
        assert all(place.startswith(("/dashboard", "#")) for place in page.targets), page.targets


@pytest.mark.parametrize(
    "text", [*SCRIPTS[:4], "x\n\ndata: {}\n\nevent: transition", "x\r\nid: 1-1\r\n", "\u2028\u2029\x85"]
)
async def test_the_api_sends_it_as_json_that_no_browser_takes_for_a_page(
    target: Target, attack: Attack, text: str
) -> None:
    fields = bearer(OPERATOR_TOKEN)
    body = json.dumps({"reason": text}).encode()
    assert (await target.ask("POST", "/admin/v1/tenants/acme/users/alice/suspend", fields, body)).status == 200
    answer = await target.ask("GET", "/admin/v1/tenants/acme/users/alice", fields)
    attack(f"reason {text!a}", f"{answer.status}, in JSON")
    assert answer.data["events"][0]["reason"] == text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_page_is_framed_sniffed_kept_or_lets_a_script_of_others_in(target: Target, attack: Attack) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    resources = {route.resource.canonical for route in target.app.router.routes() if route.resource}
    paths = [path for path in sorted(resources) if not re.search(r"/(api|static|ui)\b|\{", path)]
    assert {"/dashboard", "/dashboard/user", "/dashboard/rules", "/dashboard/login", "/docs"} <= {*paths}
    shown = 0
    for path in [*paths, "/dashboard/nothing", "/dashboard?after=x", "/dashboard?tenant=nobody"]:
        for fields in (browser.fields, []):
            for method in ("GET", "POST", "PUT"):
                page = await target.ask(method, path, fields)
                if not page.headers.get("content-type", "").startswith("text/html"):
                    continue
                shown += 1
                policy = page.headers["content-security-policy"]
                assert "frame-ancestors 'none'" in policy, path
                assert "default-src 'none'" in policy
                assert "script-src 'self';" in policy, "no inline script, no eval, no other host"
                assert "base-uri 'none'" in policy
                assert page.headers["x-content-type-options"] == "nosniff"
                assert page.headers["cache-control"] == "no-store"
                assert path.startswith("/docs") or page.headers["x-frame-options"] == "DENY"
    attack("pages in a frame", f"frame-ancestors 'none' on {shown} answers")
    assert shown > 20


# --- where a login leads -------------------------------------------------------------------------------

ELSEWHERE = [
    *("https://evil.example", "http:evil.example", "//evil.example", "///evil.example", "////evil.example", "/\\evil"),
    *("\\\\evil.example", "/%2f/evil.example", "/%5cevil.example", "https:///evil.example", "//evil.example/dashboard"),
    *("/dashboard@evil.example", "/dashboard.evil.example", "/dashboardevil", "/Dashboard", "/dashboard\\@evil"),
    *("//dashboard/", "/dashboard//evil.example", "/dashboard/..//evil.example", "/dashboard/../docs", "/dashboard/.."),
    *("/dashboard/%2e%2e/docs", "/dashboard/.%2e/auth/status", "/dashboard/x/../../docs", "/dashboard/./../docs"),
    *("/dashboard/..;/docs", "/dashboard/../", "/dashboard?/../../evil", "/dashboard/\t/evil.example", "/\tdashboard"),
    *("/dashboard\r\nset-cookie: a=b", "/dashboard/%0d%0aset-cookie:%20a=b", "/dashboard\n", "/dashboard/\0", "//e"),
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)//", "data:text/html,x", "/dashboard/javascript:alert(1)", "vbs:"),
    *("http://rollcall.evil.example/dashboard", "http://rollcall@evil.example/dashboard", "?next=//evil", "#//evil"),
    *("/\u2028/evil.example", "/dashboard/\u202e", "\u2100/dashboard", "/dashboard\u3002evil.example", "/auth/logout"),
    *("/dashboard/login?next=//evil.example", "/dashboard/logout", "", "/", "*", ".", "/dashboard/" + "x" * 3000),
]  # fmt: skip


def stays(location: str) -> bool:
    """Whether a browser of the login's page comes to a page of the dashboard, by any reading of dots and slashes."""
    for read in (location, unquote(location), location.replace("\\", "/")):
        there = urlsplit(urljoin("http://rollcall/dashboard/login", read))
        if (there.scheme, there.netloc) != ("http", "rollcall") or not re.match(r"/dashboard($|/)", there.path):
            return False
    return location.isprintable()


@pytest.mark.parametrize("wanted", ELSEWHERE)
async def test_a_login_leads_to_a_page_of_the_dashboard_however_another_is_spelt(
    target: Target, attack: Attack, wanted: str
) -> None:
    entered = await try_to_log_in(target, OPERATOR_TOKEN, next=wanted)
    browser = await log_in(target, OPERATOR_TOKEN)
    inside = await target.ask("GET", f"/dashboard/login?{urlencode({'next': wanted})}", browser.fields)
    attack(
        f"next={wanted}", f"{entered.status} to the dashboard" if stays(entered.headers["location"]) else "elsewhere"
    )
    for answer in (entered, inside):
        assert answer.status == 303
        assert stays(answer.headers["location"]), answer.headers["location"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "rollcall@evil.example", "", "[::1]", "a b", "<b>"]
)
async def test_a_redirect_goes_by_no_name_that_the_request_brings(target: Target, attack: Attack, host: str) -> None:
    named = [("x-forwarded-host", host), ("forwarded", f"host={host}"), ("x-host", host), ("x-original-url", "/evil")]
    for path in ("/dashboard", "/dashboard/user?user=//evil.example", "/dashboard//evil.example", "//evil.example"):
        raw = b"\r\n".join(
            [f"GET {path} HTTP/1.1".encode(), f"host: {host}".encode(), b"connection: close"]
            + [f"{name}: {value}".encode() for name, value in named]
            + [b"", b""]
        )
        answers = await target.exchange(raw)
        assert b"HTTP/1.1 303" in answers or b" 404 " in answers or b" 400 " in answers
        location = re.search(rb"(?i)\r\nlocation: ([^\r]*)", answers)
        assert location is None or location[1].startswith(b"/dashboard/login?next=/dashboard")
        assert b"evil.example" not in answers.partition(b"\r\n\r\n")[2], "nothing is made of it on a page either"
    attack(f"host {host!a}", "redirects stay relative")
