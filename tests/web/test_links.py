"""What somebody who explores the API by hand gets: links, paths that exist, and answers that end with a newline."""

import json

import pytest

from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR, VIEWER_TOKEN, credentials

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
AT = "/admin/v1/tenants/acme"


async def test_the_root_redirects_a_browser_to_the_dashboard(client: Client) -> None:
    answer = await client.get("/", headers={"accept": BROWSER}, allow_redirects=False)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0, */*", ""])
async def test_the_root_answers_anything_else_with_links_that_exist(client: Client, accept: str) -> None:
    answer = await client.get("/", headers={"accept": accept}, allow_redirects=False)
    assert answer.status == 200
    for name, link in (await answer.json())["data"]["links"].items():
        found = await client.get(link, headers=OPERATOR if name == "admin" else {})
        assert found.status == 200, link


async def test_the_admin_api_lists_its_routes_to_an_operator(client: Client) -> None:
    answer = await client.get("/admin/v1", headers={"authorization": f"Bearer {VIEWER_TOKEN}"})
    links = (await answer.json())["data"]["links"]
    assert (links["tenants"], links["limits"]) == ("/admin/v1/tenants", "/admin/v1/tenants/{tenant}/limits")
    for name in ("tenants", "tenant", "limits", "activity", "webhooks", "description"):
        assert (await client.get(links[name].replace("{tenant}", "acme"), headers=OPERATOR)).status == 200, name
    assert (await client.get("/admin/v1")).status == 401


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/admin", "Not Found: the admin API is at /admin/v1"),
        ("GET", f"{AT}/users", "Not Found: GET /admin/v1/tenants/{tenant}/sessions lists the users"),
        ("GET", f"{AT}/users/", "Not Found: GET /admin/v1/tenants/{tenant}/sessions lists the users"),
        ("GET", "/admin/v1/tenant", "Not Found: GET /admin/v1 lists the routes"),
        *(
            ("POST", path, "There is no such action: the actions are logout, suspend, reinstate, terminate")
            for path in (f"{AT}/users/alice/ban", f"{AT}/user/ban?user=alice", f"{AT}/sessions/ban")
        ),
    ],
)
async def test_a_404_of_the_admin_api_names_what_exists(client: Client, method: str, path: str, message: str) -> None:
    answer = await client.request(method, path, headers=OPERATOR)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["message"]) == (404, "NOT_FOUND", message)


async def test_a_404_elsewhere_says_nothing_of_the_admin_api(client: Client) -> None:
    answer = await client.get("/nothing", headers=OPERATOR)
    assert (await answer.json())["error"]["message"] == "Not Found"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        *("/", "/healthz", "/readyz", "/openapi.json", "/auth/status", "/auth/logout", "/auth/verify", "/nothing"),
        *(
            "/admin/v1",
            "/admin/v1/tenants",
            AT,
            f"{AT}/sessions",
            f"{AT}/users/alice/suspend",
            "/dashboard/api/tenants",
        ),
    ],
)
async def test_every_json_answer_ends_with_one_newline(client: Client, method: str, path: str) -> None:
    for headers in (credentials() | OPERATOR, {}):
        answer = await client.request(method, path, headers=headers)
        body = await answer.read()
        assert body.endswith(b"}\n")
        assert not body.endswith(b"\n\n")
        assert int(answer.headers["content-length"]) == len(body)
        json.loads(body)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_the_health_checks_answer_head_and_options_as_get(
    make_client: MakeClient, path: str, method: str
) -> None:
    client = await make_client(server={"cors_origins": ["https://app.example"]})
    get, other = await client.get(path), await client.request(method, path)
    same = ("content-type", "content-length", "cache-control")
    assert (other.status, [other.headers[name] for name in same]) == (200, [get.headers[name] for name in same])
    if method == "OPTIONS":
        assert (await other.json())["data"] == (await get.json())["data"]
