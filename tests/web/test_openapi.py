"""The description at /openapi.json is valid, names every route that there is, and allows every answer that is given."""

import json
import re
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource

from service import __version__
from service.app import make_app
from service.core.session_lists import EVENT_TYPES
from service.core.traffic_statistics import Refused, TrafficSample
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.events.traffic_statistics import TrafficStatistics
from service.web.admin import schemas
from service.web.api.error_responses import CODES
from service.web.openapi.description import document, operations
from service.web.openapi.event_schemas import event_name
from tests.conftest import Client
from tests.kit import OPERATOR, credentials, settings

PAGES = re.compile(r"/dashboard|/docs")
AT = "/admin/v1/tenants/acme"


def test_it_is_valid_openapi_3_1() -> None:
    described = document(__version__)
    assert described["openapi"].startswith("3.1")
    validate(described)


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    app = make_app(settings(), RedisAccess.in_process())
    routes: set[tuple[str, str]] = set()
    for route in app.router.routes():
        path = re.sub(r"\{(\w+)\}", r"{\1}", route.resource.canonical if route.resource else "")
        if PAGES.match(path) or (route.method == "OPTIONS" and "verify" not in path):
            continue  # pages for people; CORS preflights
        path = re.sub(r"^/auth/verify/(nginx|haproxy|traefik|caddy|envoy)(/\{path\})?$", "/auth/verify/{proxy}", path)
        acts = ("logout", "suspend", "reinstate", "terminate") if "{act}" in path else ("",)
        for act in acts:
            routes.add((route.method.lower(), path.replace("{act}", act)))
    described = {(one.method, one.path) for one in operations()}
    for method, path in routes:
        if method == "*":
            assert ("get", path) in described
        elif method != "head":
            assert (method, path) in described, f"{method} {path} is not described"
    for method, path in described:
        assert (method, path) in routes or ("*", path) in routes, f"{method} {path} does not exist"


def test_it_is_small_and_every_operation_has_its_security_and_a_described_tag() -> None:
    described = document(__version__)
    assert len(json.dumps(described)) < 150_000
    tags = {tag["name"]: tag["description"] for tag in described["tags"]}
    names = set()
    for methods in (*described["paths"].values(), *described["webhooks"].values()):
        for operation in methods.values():
            assert isinstance(operation["security"], list), operation["operationId"]
            assert set(operation["tags"]) <= tags.keys()
            names.add(operation["operationId"])
    assert len(names) == sum(map(len, (*described["paths"].values(), *described["webhooks"].values())))


def test_every_type_of_event_has_a_schema_and_a_webhook() -> None:
    described = document(__version__)
    assert described["webhooks"].keys() == {*EVENT_TYPES, "gap"}
    assert described["components"]["schemas"]["Event"]["discriminator"]["mapping"].keys() == set(EVENT_TYPES)


async def test_the_events_that_happen_are_those_that_are_described(client: Client, access: RedisAccess) -> None:
    await client.get("/auth/status", headers=credentials("alice"))
    asked: list[tuple[str, str, Any]] = [
        ("put", "restrictions/pay", {"until": "2999-01-01T00:00:00Z"}),
        ("put", "users/alice/restrictions/pay", None),
        ("delete", "restrictions/pay", None),
        ("put", "revocation", None),
        ("delete", "revocation", None),
        ("put", "limits/status-ip", {"requests": 1, "window": 60}),
        ("post", "limits/status-ip/reset", {"subject": "127.0.0.1"}),
        ("delete", "users/alice", {"reason": "gone"}),
        ("delete", "limits/status-ip", None),
    ]
    for method, path, body in asked:
        assert (await client.request(method, f"{AT}/{path}", headers=OPERATOR, json=body)).status == 200, path
    refused = TrafficSample(refusals=Counter([Refused("FORBIDDEN", "verify", "10.0.0.1")]), shadow=Counter(["x"]))
    await TrafficStatistics(access.client).pour("acme", refused)
    schemas = document(__version__)["components"]["schemas"]
    found = await Events(access.client).latest("acme", most=50)
    for event in found:
        data = event.as_dict()
        schema = {**schemas[event_name(data["type"])], "additionalProperties": False}
        Draft202012Validator(schema).validate(data)
    assert {event.fields["type"] for event in found} == set(EVENT_TYPES)


def test_every_error_code_is_described_somewhere() -> None:
    reported = {code for one in operations() for code in one.errors} | {"BAD_REQUEST", "INTERNAL_SERVER"}
    by_itself = {"METHOD_NOT_ALLOWED", "UNEXPECTED_STATE"}  # for a method that is not described; for a mistake of ours
    assert reported == set(CODES) - by_itself


def test_bodies_are_those_that_are_read() -> None:
    described = document(__version__)["components"]["schemas"]
    assert described["ManyBody"]["properties"]["users"]["maxItems"] == schemas.MAX_USERS
    assert set(described["LimitBody"]["required"]) == {"requests", "window"}
    assert described["TerminateBody"]["properties"]["strategy"]["enum"] == ["soft", "hard"]


REQUESTS: list[tuple[str, str, str, Any]] = [
    ("get", "/auth/status", "/auth/status", None),
    ("get", "/auth/logout", "/auth/logout", None),
    ("post", "/auth/verify/{proxy}", "/auth/verify/nginx", None),
    ("get", "/auth/verify", "/auth/verify", None),
    ("get", "/admin/v1/tenants", "/admin/v1/tenants", None),
    ("get", "/admin/v1/tenants/{tenant}", AT, None),
    ("get", "/admin/v1/tenants/{tenant}/activity", f"{AT}/activity", None),
    ("get", "/admin/v1/tenants/{tenant}/sessions", f"{AT}/sessions?limit=1", None),
    ("get", "/admin/v1/tenants/{tenant}/sessions", f"{AT}/sessions?limit=none", None),
    ("get", "/admin/v1/tenants/{tenant}/users/{user}", f"{AT}/users/alice", None),
    ("get", "/admin/v1/tenants/{tenant}/users/{user}", f"{AT}/users/{quote('nobody ' * 3)}", None),
    ("post", "/admin/v1/tenants/{tenant}/users/{user}/reinstate", f"{AT}/users/alice/reinstate", {}),
    ("post", "/admin/v1/tenants/{tenant}/users/{user}/suspend", f"{AT}/users/alice/suspend", {"reason": "x"}),
    ("post", "/admin/v1/tenants/{tenant}/sessions/suspend", f"{AT}/sessions/suspend", {"users": ["alice", "b"]}),
    ("put", "/admin/v1/tenants/{tenant}/restrictions/{capability}", f"{AT}/restrictions/status", {}),
    ("get", "/admin/v1/tenants/{tenant}", AT, None),
    ("put", "/admin/v1/tenants/{tenant}/revocation", f"{AT}/revocation", {}),
    ("put", "/admin/v1/tenants/{tenant}/limits/{limit}", f"{AT}/limits/status-ip", {"requests": 2, "window": 3}),
    ("get", "/admin/v1/tenants/{tenant}/limits", f"{AT}/limits", None),
    ("get", "/admin/v1/tenants/{tenant}/limits/{limit}", f"{AT}/limits/status-ip?subject=x", None),
    ("delete", "/admin/v1/tenants/{tenant}/users/{user}", f"{AT}/users/alice", None),
    ("get", "/admin/v1/tenants/{tenant}/webhooks", f"{AT}/webhooks", None),
    ("get", "/admin/v1/tenants/{tenant}/webhooks/{webhook}", f"{AT}/webhooks/none", None),
    ("get", "/healthz", "/healthz", None),
    ("get", "/readyz", "/readyz", None),
    ("get", "/openapi.json", "/openapi.json", None),
]


async def test_the_answers_that_are_given_are_those_that_are_described(client: Client) -> None:
    described = document(__version__)
    registry: Registry[Any] = Registry().with_resource(
        "urn:it", Resource.from_contents({**described, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    )
    for headers in (credentials("alice") | OPERATOR, {}):
        for method, path, target, body in REQUESTS:
            answer = await client.request(method, target, json=body, headers=headers)
            responses = described["paths"][path][method]["responses"]
            assert str(answer.status) in responses, (method, target, answer.status)
            named = responses[str(answer.status)]["$ref"].rpartition("/")[2]
            allowed = described["components"]["responses"][named]
            schema = allowed["content"]["application/json"]["schema"]
            pointed = _pointed(schema)
            Draft202012Validator(pointed, registry=registry).validate(await answer.json())
            for name in answer.headers:
                if name.lower().startswith(("x-auth", "ratelimit", "x-ratelimit", "retry", "x-degraded", "x-request")):
                    assert name.lower() in {one.lower() for one in allowed["headers"]}, (target, name)


def _pointed(schema: Any) -> Any:
    """References as they are found in the registry."""
    if isinstance(schema, dict):
        return {k: f"urn:it{v}" if k == "$ref" else _pointed(v) for k, v in schema.items()}
    return [_pointed(one) for one in schema] if isinstance(schema, list) else schema


async def test_a_reader_is_at_docs_and_asks_no_stranger(client: Client) -> None:
    page = await client.get("/docs")
    text = await page.text()
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for asset in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert asset.startswith("/"), "everything comes from this service"
        assert (await client.get(asset)).status == 200
    answer = await client.get("/openapi.json")
    assert (await answer.json())["info"]["version"] == __version__


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_another_method_is_405(client: Client, method: str) -> None:
    answer = await client.request(method, "/openapi.json")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
