"""Who may not: nobody, viewers, operators of other tenants, other sites. Nothing changes for them, by any route."""

from typing import Any

import pytest
import pytest_asyncio

from tests.attacks.conftest import Attack, Target, of
from tests.attacks.operating import (
    ADMIN,
    DASHBOARD,
    FORM,
    bearer,
    log_in,
    stranger,
    wishes,
)
from tests.kit import OPERATOR_TOKEN, SECRET, TENANT_TOKEN, sign

CHANGES: dict[str, Any] = {"limits": {"admin": [], "login": []}, "metrics": {"token": "token-of-the-metrics"}}
WATCHER, HALF = "viewer-token-of-all", "operator-token-of-globex"
WRONG = [
    *("", OPERATOR_TOKEN[:-1], f"{OPERATOR_TOKEN}x", OPERATOR_TOKEN.upper(), "*", "root", "\udcff", TENANT_TOKEN),
    *(SECRET, "token-of-the-metrics", f"Bearer {OPERATOR_TOKEN}", f'"{OPERATOR_TOKEN}"', f"{OPERATOR_TOKEN},root"),
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module")
async def seen(target: Target) -> dict[str, Any]:
    """What Redis keeps once alice was seen."""
    assert (await target.ask(fields=of(sign("alice")))).status == 200
    return await target.kept()


# --- without the right token, or with too little of a role ----------------------------------------------


async def test_no_route_opens_without_the_right_token(target: Target, attack: Attack, seen: Any) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    others = [[], browser.fields, browser.acting(), [("authorization", f"Basic {OPERATOR_TOKEN}")], of(OPERATOR_TOKEN)]
    for wish in wishes(target):
        path = f"{wish.path}{'&' if '?' in wish.path else '?'}token={OPERATOR_TOKEN}&access_token={OPERATOR_TOKEN}"
        for fields in [*map(bearer, WRONG), *others]:
            answer = await target.ask(wish.method, path, fields, wish.body)
            assert answer.status == 401, (wish, fields)
        attack(f"{wish}", f"401 to {len(WRONG) + len(others)} who are nobody")
    assert await target.kept() == seen


async def test_a_viewer_changes_nothing_by_any_route(target: Target, attack: Attack, seen: Any) -> None:
    browser = await log_in(target, WATCHER)
    for root, fields in ((ADMIN, bearer(WATCHER)), (DASHBOARD, browser.acting())):
        for wish in wishes(target, root):
            answer = await target.ask(wish.method, wish.path, fields, wish.body) if wish.changes else None
            if answer is not None:
                attack(f"viewer: {wish}", answer)
                assert (answer.status, answer.code) == (403, "FORBIDDEN"), wish
    assert await target.kept() == seen


async def test_an_operator_of_one_tenant_reaches_nothing_of_another(target: Target, attack: Attack, seen: Any) -> None:
    browser = await log_in(target, HALF)
    for root, fields in ((ADMIN, bearer(HALF)), (DASHBOARD, browser.acting())):
        for wish in wishes(target, root):
            answer = await target.ask(wish.method, wish.path, fields, wish.body)
            if wish.route == "/tenants":
                assert b"acme" not in answer.body
                continue
            attack(f"globex's: {wish}", answer)
            assert answer.status == 403, wish
            assert b"alice" not in answer.body
    for page in ("/dashboard", "/dashboard/user", "/dashboard/rules"):
        answer = await target.ask("GET", f"{page}?tenant=acme&user=alice", browser.fields)
        attack(f"globex's: {page}?tenant=acme", answer)
        assert answer.status == 404
        assert b"alice" not in answer.body
    assert await target.kept() == seen


async def test_the_same_requests_are_granted_to_who_may(target: Target) -> None:
    """Otherwise the tests above would prove nothing."""
    browser = await log_in(target, OPERATOR_TOKEN)
    for root, fields in ((ADMIN, bearer(OPERATOR_TOKEN)), (DASHBOARD, browser.acting())):
        found = [wish for wish in wishes(target, root) if wish.route != "/events"]
        assert len(found) >= 25
        for wish in found:
            assert (await target.ask(fields=of(sign("alice")))).status in (200, 401, 403, 429)
            answer = await target.ask(wish.method, wish.path, fields, wish.body)
            assert answer.status in (200, 404, 409), (wish, answer.body)


NAMES = [
    "acme%2f..%2fglobex",
    "globex%00",
    "globex%0a",
    "%2a",
    "%3f",
    "GLOBEX",
    "globex%20",
    "%7Bglobex%7D",
    "acme%7D",
    ".",
]
NAMES += [
    "..%2fglobex",
    "globex;acme",
    "globex,acme",
    "glo%2562ex",
    "%EF%BD%87lobex",
    "gl%C3%B6bex",
    "rc:globex",
    "__proto__",
]


@pytest.mark.parametrize("name", NAMES)
async def test_no_spelling_of_a_tenant_is_another(target: Target, attack: Attack, seen: Any, name: str) -> None:
    for token, status in ((HALF, (403, 404)), (OPERATOR_TOKEN, (404,))):
        for wish in wishes(target, tenant=name):
            if name in wish.path:
                answer = await target.ask(wish.method, wish.path, bearer(token), wish.body)
                assert answer.status in status, (wish, name)
    attack(f"tenant {name}", "403 or 404 by every route")
    assert await target.kept() == seen


# --- other sites ---------------------------------------------------------------------------------------


async def test_no_other_site_acts_by_an_operators_browser(target: Target, attack: Attack, seen: Any) -> None:
    mine, other, anonymous = (
        await log_in(target, OPERATOR_TOKEN),
        await log_in(target, OPERATOR_TOKEN),
        await stranger(target),
    )
    forged: dict[str, list[tuple[str, str]]] = {
        "no token": mine.fields,
        "an empty token": mine.acting(**{"x-csrf-token": ""}),
        "another browser's token": mine.acting(**{"x-csrf-token": other.csrf}),
        "the login's token": mine.acting(**{"x-csrf-token": anonymous.csrf}),
        "half the token": mine.acting(**{"x-csrf-token": mine.csrf[:-1]}),
        "the cookie for the token": mine.acting(**{"x-csrf-token": mine.cookie}),
        "the token under another name": [*mine.fields, ("csrf", mine.csrf), ("x-xsrf-token", mine.csrf)],
        "from another site": [*mine.fields, ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        "from nowhere": [*mine.fields, ("origin", "null")],
        "from another site that knows the token": mine.acting(**{"sec-fetch-site": "cross-site"}),
        "from next door that knows the token": mine.acting(**{"sec-fetch-site": "same-site"}),
        "as GET by an override": [*mine.fields, ("x-http-method-override", "GET"), ("x-method-override", "GET")],
    }
    for wish in (wish for wish in wishes(target, DASHBOARD) if wish.changes):
        more = "&" if "?" in wish.path else "?"
        for path in (wish.path, f"{wish.path}{more}csrf={mine.csrf}&x-csrf-token={mine.csrf}"):
            for how, fields in forged.items():
                answer = await target.ask(wish.method, path, [*fields, FORM], wish.body)
                assert (answer.status, answer.code) == (403, "FORBIDDEN"), (wish, how)
        attack(f"{wish}", f"403 to {len(forged)} forgeries of other sites")
    assert await target.kept() == seen


@pytest.mark.parametrize("override", ["x-http-method-override", "x-http-method", "x-method-override", "_method"])
async def test_a_method_is_what_the_request_line_says(target: Target, attack: Attack, seen: Any, override: str) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for root, fields in ((ADMIN, bearer(OPERATOR_TOKEN)), (DASHBOARD, browser.fields)):
            path = f"{root}/tenants/acme/users/alice"
            answer = await target.ask("GET", path, [*fields, (override, method)])
            assert (answer.status, answer.data["session"]["status"]) == (200, "logged_in")
            answer = await target.ask("GET", f"{path}?{override}={method}", fields)
            assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    attack(f"{override}: DELETE", "200 as a field, 400 as a parameter, and nothing deleted")
    assert await target.kept() == seen
