"""`Vary` names the request fields that an answer depends on: client-side caches that ignore `no-store` read it."""

import pytest

from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR, credentials

BASE = "x-tenant-token, x-token, authorization, x-passive"
ORIGINAL, FORWARDED = "x-original-method, x-original-uri", "x-forwarded-method, x-forwarded-uri"
VARY = {
    "/auth/status": BASE,
    "/auth/logout": f"{BASE}, sec-purpose",
    "/auth/terminate": BASE,
    "/auth/nothing": BASE,
    "/auth/verify": f"{BASE}, {ORIGINAL}, {FORWARDED}, prefer",
    "/auth/verify/nginx": f"{BASE}, {ORIGINAL}, prefer",
    "/auth/verify/haproxy": f"{BASE}, {ORIGINAL}, prefer",
    "/auth/verify/traefik": f"{BASE}, {FORWARDED}, prefer",
    "/auth/verify/caddy": f"{BASE}, {FORWARDED}, upgrade, prefer",
    "/auth/verify/envoy/api": f"{BASE}, prefer",
    "/admin/v1": "authorization",
    "/admin/v1/tenants/acme/sessions": "authorization",
    "/metrics": "authorization",
    "/dashboard": "cookie",
    "/dashboard/api/tenants": "cookie",
    "/": "accept",
    "/healthz": None,
    "/readyz": None,
    "/openapi.json": None,
    "/dashboard/static/rollcall.css": None,
}
FAKE = pytest.mark.parametrize("access", ["fake"], indirect=True)


@FAKE
@pytest.mark.parametrize("path", VARY)
async def test_an_answer_names_the_fields_that_it_depends_on_whatever_its_status(client: Client, path: str) -> None:
    for headers in (credentials(), OPERATOR, {}, {"connection": "close", **credentials()}):
        answer = await client.request(
            "POST" if path == "/auth/terminate" else "GET", path, headers=headers, allow_redirects=False
        )
        assert answer.headers.getall("vary", [None]) == [VARY[path]]


@FAKE
async def test_where_cors_is_configured_the_origin_is_among_them_under_auth(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": ["https://app.example"]})
    for headers in ({}, {"origin": "https://app.example"}, {"origin": "https://other.example"}):
        answer = await client.get("/auth/status", headers=credentials() | headers)
        assert answer.headers.getall("vary") == [f"{BASE}, origin"]
        preflight = await client.options("/auth/status", headers=headers)
        assert preflight.headers.getall("vary") == [f"{BASE}, origin"]
        elsewhere = await client.get("/admin/v1", headers=OPERATOR | headers)
        assert elsewhere.headers["vary"] == "authorization"


@FAKE
async def test_the_event_stream_names_its_field_too(client: Client) -> None:
    answer = await client.get("/admin/v1/events?tenant=acme", headers=OPERATOR)
    assert (answer.status, answer.headers["vary"]) == (200, "authorization")
    answer.close()
