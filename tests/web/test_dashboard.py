"""The dashboard over HTTP: who gets in, what is shown to whom, and what is not let through."""

import html
import re
from typing import Any

import pytest
from yarl import URL

from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import Client, MakeClient
from tests.kit import (
    OPERATOR_TOKEN,
    OTHER_SECRET,
    OTHER_TENANT_TOKEN,
    VIEWER_TOKEN,
    config,
    cookie_name,
    credentials,
)
from tests.web.dashboard_pages import form_token, log_in, page


async def test_nobody_sees_a_page_without_logging_in_and_comes_back_to_it_after(client: Client) -> None:
    answer = await client.get("/dashboard?tenant=globex", allow_redirects=False)
    assert answer.status == 303
    login = URL(answer.headers["location"])
    assert (login.path, dict(login.query)) == ("/dashboard/login", {"next": "/dashboard?tenant=globex"})
    after = await log_in(client, next="/dashboard?tenant=globex")
    assert (after.status, after.headers["location"]) == (303, "/dashboard?tenant=globex")
    assert (await client.get("/dashboard/login", allow_redirects=False)).status == 303, "already logged in"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/dashboardx",
        "/dashboard\\@evil",
        "/auth/status",
        "javascript:1",
        "/dashboard/\r\nset-cookie: a=b",
    ],
)
async def test_a_login_leads_to_a_page_of_the_dashboard_and_nowhere_else(client: Client, wanted: str) -> None:
    assert (await log_in(client, next=wanted)).headers["location"] == "/dashboard"


async def test_the_cookie_is_http_only_same_site_and_only_sent_to_the_dashboard(client: Client) -> None:
    cookie = (await log_in(client)).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/dashboard" in cookie
    assert "secure" not in cookie
    assert OPERATOR_TOKEN not in cookie


async def test_behind_https_the_cookie_is_secure(client: Client) -> None:
    answer = await client.get("/dashboard/login", headers={"x-forwarded-proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()
    twice = [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]
    answer = await client.get("/dashboard/login", headers=twice)
    assert "secure" not in answer.headers["set-cookie"].lower(), "a repeated field is ignored"


@pytest.mark.parametrize("token", ["", "wrong", OPERATOR_TOKEN[:-1], "ü"])
async def test_a_wrong_token_is_refused_and_said_so(client: Client, token: str) -> None:
    answer = await log_in(client, token)
    assert answer.status == 401
    assert "No operator has this token" in await answer.text()
    assert (await client.get("/dashboard", allow_redirects=False)).status == 303


async def test_guessing_is_limited(make_client: MakeClient) -> None:
    client = await make_client(limits={"login": [{"name": "login-ip", "per": "ip", "requests": 2, "window": 60}]})
    for _ in range(2):
        assert (await log_in(client, "wrong")).status == 401
    answer = await log_in(client)
    assert answer.status == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert "Too many requests" in await answer.text()


@pytest.mark.parametrize("path", ["/dashboard/login", "/dashboard/logout"])
@pytest.mark.parametrize("how", ["no token", "wrong token", "no cookie", "another site"])
async def test_a_form_that_was_not_sent_from_here_is_refused(client: Client, path: str, how: str) -> None:
    form: dict[str, str] = {"csrf": await form_token(client), "token": OPERATOR_TOKEN}
    headers = {"sec-fetch-site": "cross-site"} if how == "another site" else {}
    if how == "no cookie":
        client.session.cookie_jar.clear()
    elif how != "another site":
        form = {"token": OPERATOR_TOKEN} | ({"csrf": "forged"} if how == "wrong token" else {})
    answer = await client.post(path, data=form, headers=headers, allow_redirects=False)
    assert answer.status == 403
    assert "<h1>Forbidden</h1>" in await answer.text()
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["", "garbage", "eyJvcGVyYXRvciI6InJvb3QifQ.aaaa.bbbb"])
async def test_a_forged_cookie_is_nobodys(client: Client, cookie: str) -> None:
    answer = await client.get("/dashboard", headers={"cookie": f"{cookie_name()}={cookie}"}, allow_redirects=False)
    assert answer.status == 303


async def test_a_cookie_means_nothing_once_the_operators_changed(make_client: MakeClient) -> None:
    before = await make_client()
    cookie = (await log_in(before)).headers["set-cookie"].partition(";")[0]
    changed = config()["admin"]["tokens"]
    changed[0]["token"] = "another-operator-token"
    after = await make_client(admin={"tokens": changed})
    assert (await after.get("/dashboard", headers={"cookie": cookie}, allow_redirects=False)).status == 303


async def test_log_out_forgets_the_operator(client: Client) -> None:
    await log_in(client)
    found = re.search(r'name="csrf" value="([^"]+)"', await page(client))
    assert found is not None
    answer = await client.post("/dashboard/logout", data={"csrf": found[1]}, allow_redirects=False)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard/login")
    assert (await client.get("/dashboard", allow_redirects=False)).status == 303


async def test_every_page_keeps_to_itself(client: Client) -> None:
    await log_in(client)
    for path in ("/dashboard", "/dashboard/login", "/dashboard/nothing", "/dashboard/user?tenant=acme&user=nobody"):
        answer = await client.get(path, allow_redirects=False)
        if answer.status == 303:
            continue
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        text = await answer.text()
        assert not re.search(r"<script(?![^>]*src=)|style=|onclick=|https?://(?!127\.0\.0\.1)", text), path


async def test_an_empty_dashboard_says_what_to_do(client: Client) -> None:
    await log_in(client)
    text = await page(client)
    assert "No users yet" in text
    assert "rollcall token --tenant acme --user alice" in text
    assert re.search(r"http://127\.0\.0\.1:\d+/auth/status", text)


def users_in(text: str) -> list[str]:
    return re.findall(r"<bdi>([^<]*)</bdi></a></th>", text)


async def test_counts_table_and_filters(client: Client) -> None:
    for user in ("alice", "bob", "bert"):
        await client.get("/auth/status", headers=credentials(user))
    await client.get("/auth/logout", headers=credentials("bob"))
    await log_in(client)
    text = await page(client)
    assert users_in(text) == ["bob", "bert", "alice"]
    assert re.findall(r'<span class="number">(\d+)</span>', text) == ["2", "1", "0", "0", "0"]
    assert users_in(await page(client, tenant="acme", status="logged_out")) == ["bob"]
    assert users_in(await page(client, tenant="acme", user="be")) == ["bert"]
    assert "Searched all 3 users" in await page(client, tenant="acme", user="be")
    assert users_in(await page(client, tenant="acme", user="alice", exact="1")) == ["alice"]
    assert users_in(await page(client, tenant="acme", user="alice", exact="1", status="expired")) == []
    assert "Nothing is recorded of" in await page(client, tenant="acme", user="al", exact="1")
    assert "No user of acme is suspended now" in await page(client, tenant="acme", status="suspended")
    assert "None of the users that were searched begins with" in await page(client, tenant="acme", user="zz")
    assert users_in(await page(client, tenant="globex")) == []


async def test_pages_lead_from_the_newest_to_the_oldest_and_back(make_client: MakeClient, access: RedisAccess) -> None:
    client = await make_client()
    for i in range(60):
        await client.get("/auth/status", headers=credentials(f"user{i:02d}"))
    await log_in(client)
    first = await page(client)
    older = re.search(r'href="([^"]+)" rel="next"', first)
    assert older is not None
    second = await page(client, older[1].replace("&amp;", "&"))
    assert users_in(first) + users_in(second) == [f"user{i:02d}" for i in reversed(range(60))]
    assert 'rel="first"' in second
    assert 'rel="next"' not in second
    assert "Nothing older" in await page(client, tenant="acme", after="1.x")


async def test_one_users_page_shows_status_and_history(client: Client, access: RedisAccess) -> None:
    await client.get("/auth/logout", headers=credentials() | {"x-request-id": "first-one"})
    await client.get("/auth/status", headers=credentials())
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, Author("root", reason="<b>why</b>"))
    await log_in(client)
    text = await page(client, "/dashboard/user", tenant="acme", user="alice")
    assert '<span class="badge suspended">' in text
    shown = [" ".join(one.split()) for one in re.findall(r"<strong>([^<]*)</strong>", text)]
    assert shown == ["logged in → suspended", "logged out → logged in", "none → logged out"]
    assert "request <code>first-one</code>" in text
    assert "suspended by <bdi>root</bdi>" in text
    assert "&lt;b&gt;why&lt;/b&gt;" in text


async def test_a_user_whose_record_is_gone_still_has_a_history(client: Client, access: RedisAccess) -> None:
    await client.get("/auth/status", headers=credentials())
    await access.client.delete("rc:{acme}:u:alice")
    await log_in(client)
    assert "There is no record of this user" in await page(client, "/dashboard/user", tenant="acme", user="alice")


@pytest.mark.parametrize(
    "user", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b=c/d?e#f", "{{7*7}}", "‮gnp"]
)
async def test_what_a_user_is_called_stays_text(client: Client, user: str) -> None:
    await client.get("/auth/status", headers=credentials(user))
    await log_in(client)
    text = await page(client)
    assert "<script>alert" not in text
    assert "<img" not in text
    link = re.search(r'href="(/dashboard/user\?[^"]+)"', text)
    assert link is not None
    again = await page(client, link[1].replace("&amp;", "&"))
    assert "<script>alert" not in again


async def test_an_operator_sees_its_own_tenants_alone(client: Client) -> None:
    await client.get("/auth/status", headers=credentials("alice"))
    await client.get("/auth/status", headers=credentials("gina", tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET))
    await log_in(client, VIEWER_TOKEN)
    text = await page(client)
    assert users_in(text) == ["gina"]
    assert "acme" not in text
    for path in ("/dashboard?tenant=acme", "/dashboard/user?tenant=acme&user=alice"):
        assert (await client.get(path)).status == 404, "what is not yours is not there"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"status": "none"}, 400),
        ({"status": "x"}, 400),
        ({"after": "x"}, 400),
        ({"after": "1" * 30 + ".a"}, 400),
        ({"after": "-1.a"}, 400),
        ({"after": "٣.a"}, 400),
        ({"tenant": "nowhere"}, 404),
        ({"tenant": "*"}, 404),
        ({"user": "x" * 5000}, 200),
        ({"user": "\x00"}, 200),
    ],
)
async def test_nonsense_in_the_address_gets_a_page_that_says_so(
    client: Client, query: dict[str, Any], status: int
) -> None:
    await log_in(client)
    answer = await client.get("/dashboard", params=query)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "raw", ["/dashboard?user=%ff%fe", "/dashboard?after=1.%ff", "/dashboard/user?tenant=acme&user=%ff"]
)
async def test_bytes_that_are_no_text_are_no_error_of_ours(client: Client, raw: str) -> None:
    await log_in(client)
    assert (await client.get(raw)).status in (200, 404)


async def test_a_body_that_is_too_large_is_413(client: Client) -> None:
    form = {"csrf": await form_token(client), "token": "x" * 70_000}
    answer = await client.post("/dashboard/login", data=form)
    assert answer.status == 413
    assert "<h1>Payload Too Large</h1>" in await answer.text()


async def test_an_operator_without_tenants_sees_an_explanation(make_client: MakeClient) -> None:
    client = await make_client(
        tenants={"acme": config()["tenants"]["acme"]},
        admin={"tokens": [{"name": "none", "token": "t", "tenants": ["globex"]}]},
    )
    from service.web import app_keys

    policy = client.app[app_keys.REQUEST_SERVICES].policy.current if client.app else None
    assert policy is not None
    policy.directory.tenants.pop("globex")
    await log_in(client, "t")
    assert "No tenant to show" in await page(client)


@pytest.mark.parametrize("name", ["rollcall.css", "times.js", "icon.svg"])
async def test_static_files_need_no_login(client: Client, name: str) -> None:
    answer = await client.get(f"/dashboard/static/{name}")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/dashboard/static/../../app.py")).status == 404


@pytest.mark.parametrize("path", ["/dashboard/login", "/dashboard/logout"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded; charset=nonsense", b"a=b"),
        ("application/x-www-form-urlencoded", b"csrf=\xff\xfe"),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nunfinished"),
        ("application/json", b"{}"),
        ("", b"csrf=a"),
        ("text/plain", b"csrf=a"),
    ],
)
async def test_a_body_that_is_not_a_form_is_400_and_not_an_error_of_the_service(
    client: Client, path: str, kind: str, body: bytes
) -> None:
    answer = await client.post(path, data=body, headers={"content-type": kind})
    assert answer.status in (400, 403)


async def test_a_body_that_claims_to_be_compressed_is_a_bad_request(client: Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded", "content-encoding": "gzip"}
    answer = await client.post("/dashboard/login", data=b"not gzip at all", headers=headers)
    assert answer.status == 400


async def test_the_way_back_survives_a_wrong_token(client: Client) -> None:
    answer = await log_in(client, "wrong", next="/dashboard?tenant=globex")
    assert 'name="next" value="/dashboard?tenant=globex"' in await answer.text()


@pytest.mark.parametrize("name", ["a" * 5000, "..%2f..%2fapp.py", "%00", "nothing.css"])
async def test_static_names_that_are_nonsense_are_not_there(client: Client, name: str) -> None:
    assert (await client.get(f"/dashboard/static/{name}")).status == 404


@pytest.mark.parametrize(
    ("user", "shown"),
    [(" ", "␣"), ("  a b ", "␣␣a b␣"), ("\u202egnp.exe", "[U+202E]gnp.exe"), ("a\u00a0b\u200b", "a[U+00A0]b[U+200B]")],
)
async def test_what_cannot_be_seen_in_a_name_is_shown(client: Client, user: str, shown: str) -> None:
    await client.get("/auth/status", headers=credentials(user))
    await log_in(client)
    assert users_in(await page(client)) == [shown]
    assert f"<bdi>{shown}</bdi>" in await page(client, "/dashboard/user", tenant="acme", user=user)


async def test_a_user_of_whom_nothing_is_kept_is_said_to_be(client: Client) -> None:
    await log_in(client)
    answer = await client.get("/dashboard/user", params={"tenant": "acme", "user": "nobody"})
    assert answer.status == 404
    assert "<h1>Nothing is recorded of nobody in acme</h1>" in await answer.text()


async def test_an_operator_may_act_on_a_user_before_its_first_request(client: Client) -> None:
    await log_in(client)
    searched = await page(client, tenant="acme", user="newcomer", exact="1")
    [address] = re.findall(r'href="([^"]*unseen=1)"', searched)
    answer = await client.get(html.unescape(address))
    text = await answer.text()
    assert answer.status == 200
    assert "There is no record of this user" in text
    assert "Suspend newcomer?" in text
    assert "Log out newcomer?" not in text, "nobody logs out who was never here"


@pytest.mark.parametrize("host", ["", "a:99999", "a:b:c"])
async def test_the_empty_dashboard_is_shown_whatever_it_was_called(client: Client, host: str) -> None:
    cookie = (await log_in(client)).headers["set-cookie"].partition(";")[0]
    answer = await client.get("/dashboard", headers={"host": host, "cookie": cookie})
    assert answer.status == 200
    assert "No users yet" in await answer.text()
