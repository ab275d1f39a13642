"""Where the dashboard is served, beside whom, and in how many tabs."""

import re

import pytest
from yarl import URL

from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, VIEWER_TOKEN, cookie_name, credentials

BASE = "/ops/rollcall"


async def form_token(client: Client, path: str) -> str:
    text = await (await client.get(path)).text()
    found = re.search(r'name="csrf" value="([^"]+)"', text)
    assert found is not None
    return found[1]


async def log_in(client: Client, root: str = "/dashboard", token: str = OPERATOR_TOKEN) -> None:
    form = {"csrf": await form_token(client, f"{root}/login"), "token": token, "next": ""}
    answer = await client.post(f"{root}/login", data=form, allow_redirects=False)
    assert answer.status == 303


async def test_a_login_page_that_was_opened_before_another_one_still_logs_in(client: Client) -> None:
    first = await form_token(client, "/dashboard/login")
    await form_token(client, "/dashboard/login")
    form = {"csrf": first, "token": OPERATOR_TOKEN, "next": "/dashboard?tenant=globex"}
    answer = await client.post("/dashboard/login", data=form, allow_redirects=False)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard?tenant=globex")


async def test_a_login_page_that_is_left_open_leads_to_the_dashboard_once_another_tab_has_logged_in(
    client: Client,
) -> None:
    stale = await form_token(client, "/dashboard/login")
    await log_in(client)
    form = {"csrf": stale, "token": VIEWER_TOKEN, "next": ""}
    answer = await client.post("/dashboard/login", data=form, allow_redirects=False)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
    assert "root" in await (await client.get("/dashboard")).text(), "the operator stays who it was"
    crossed = {"sec-fetch-site": "cross-site"}
    answer = await client.post("/dashboard/login", data=form, headers=crossed, allow_redirects=False)
    assert answer.status == 403


@pytest.mark.parametrize("removed", [True, False])
async def test_the_dashboard_works_under_a_prefix_whether_a_proxy_removes_it_or_not(
    make_client: MakeClient, removed: bool
) -> None:
    client = await make_client(server={"base_path": BASE})
    at = "" if removed else BASE  # as the service sees it

    async def ask(path: str) -> str:
        """What a browser gets that asks for `path`: with the cookie of that path, and through the proxy."""
        assert path.startswith(f"{BASE}/"), path
        cookies = client.session.cookie_jar.filter_cookies(client.make_url(path))
        asked = f"{at}{path.removeprefix(BASE)}"
        headers = {"cookie": "; ".join(f"{one.key}={one.value}" for one in cookies.values())}
        answer = await client.get(asked, headers=headers, allow_redirects=False)
        assert answer.status == 200, (asked, answer.status)
        return await answer.text()

    answer = await client.get(f"{at}/dashboard?tenant=acme", allow_redirects=False)
    assert answer.status == 303
    where = URL(answer.headers["location"])
    assert (where.path, where.query["next"]) == (f"{BASE}/dashboard/login", f"{BASE}/dashboard?tenant=acme")
    login = await client.get(f"{at}/dashboard/login")
    token = re.search(r'name="csrf" value="([^"]+)"', await login.text())
    assert token is not None
    cookie = login.cookies[next(iter(login.cookies))]
    assert cookie["path"] == f"{BASE}/dashboard"
    form = {"csrf": token[1], "token": OPERATOR_TOKEN, "next": where.query["next"]}
    signed_in = await client.post(
        f"{at}/dashboard/login",
        data=form,
        headers={"cookie": f"{cookie.key}={cookie.value}"},
        allow_redirects=False,
    )
    assert (signed_in.status, signed_in.headers["location"]) == (303, f"{BASE}/dashboard?tenant=acme")
    page = await ask(f"{BASE}/dashboard?tenant=acme")
    links = re.findall(r'(?:href|src|action|data-api)="(/[^"]*)"', page)
    assert len(links) > 10
    assert all(link.startswith(f"{BASE}/dashboard") for link in links), links
    await ask(f"{BASE}/dashboard/static/live.js")
    assert '"tenants"' in await ask(f"{BASE}/dashboard/api/tenants")
    docs = await ask(f"{BASE}/docs")
    assert f'data-description="{BASE}/openapi.json"' in docs
    await ask(f"{BASE}/openapi.json")


async def test_other_deployments_on_the_same_host_have_other_cookies(make_client: MakeClient) -> None:
    ours = cookie_name()
    others = [
        cookie_name(admin={"tokens": [{"name": "root", "token": "another-operators-token", "tenants": ["*"]}]}),
        cookie_name(redis={"namespace": "other"}),
        cookie_name(server={"base_path": "/other"}),
    ]
    assert len({ours, *others}) == 4
    assert ours == cookie_name(server={"port": 9999}), "all hosts of one deployment have the same"
    client = await make_client()
    await log_in(client)
    stranger = {"cookie": f"{others[0]}=of-another-deployment; rollcall=of-an-earlier-version"}
    assert (await client.get("/dashboard", headers=stranger, allow_redirects=False)).status == 200, (
        "ours is beside them"
    )


@pytest.mark.parametrize("name", [" alice", "alice ", "\u3000alice", " a b "])
async def test_a_search_finds_a_name_with_blanks_at_its_ends(client: Client, name: str) -> None:
    for user in (name, "bob"):
        assert (await client.get("/auth/status", headers=credentials(user))).status == 200
    await log_in(client)
    for exact in ({}, {"exact": "1"}):
        asked = URL("/dashboard").with_query({"tenant": "acme", "user": name, **exact})
        text = await (await client.get(asked)).text()
        assert text.count('name="chosen"') == 1, (name, exact)


@pytest.mark.parametrize("typed", ["alice ", " alice", "  ali"])
async def test_blanks_around_a_name_that_has_none_do_not_hide_it(client: Client, typed: str) -> None:
    assert (await client.get("/auth/status", headers=credentials("alice"))).status == 200
    await log_in(client)
    text = await (await client.get(URL("/dashboard").with_query(tenant="acme", user=typed))).text()
    assert text.count('name="chosen"') == 1
