"""One credential a request, through each proxy of `examples/`: what the API receives is exactly what was judged.

On an open route nothing is judged, and what the client sends is not touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit import ROOT
from tests.kit import credentials as tokens_of
from tests.proxies.outcomes import Fields, RequestServices, Row, gate
from tests.proxies.test_forward_auth import SECRET
from tests.proxies.versions import PROXIES

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]

JUDGED, OPEN = "/api/things", "/public/logo.svg"
TOKENS = {
    name: tokens_of(f"user-{name}", tenant_token="", secret=SECRET, kid="demo")["x-token"] for name in ("A", "B")
}  # fmt: skip
BASIC = ("authorization", "Basic dXNlcjpzZWNyZXQ=")
TENANT = ("x-tenant-token", "demo-tenant-token")
OTHER_TENANT = ("x-tenant-token", "other-tenant-token")
PASSIVE = ("x-passive", "true")
INVALID = "401 INVALID_USER_TOKEN"


def token(name: str, field: str = "x-token") -> tuple[str, str]:
    return field, TOKENS[name]


def bearer(name: str, scheme: str = "Bearer") -> tuple[str, str]:
    return "authorization", f"{scheme} {TOKENS[name]}"


@dataclass(frozen=True)
class Request(Row):
    """Credentials of one request."""

    fields: tuple[tuple[str, str], ...] = ()
    target: str = JUDGED
    tenant: tuple[tuple[str, str], ...] = (TENANT,)


BY_NGINX = {"nginx": "400"}
"""It answers a repeated `Authorization` by itself, and asks nobody."""

ROWS = (
    Request("`x-token: A`", "200: x-token A", fields=(token("A"),)),
    Request("`authorization: Bearer A`", "200: authorization Bearer A", fields=(bearer("A"),)),
    Request("`x-token: A`, `x-token: B`", INVALID, fields=(token("A"), token("B"))),
    Request("`x-token: A`, twice", INVALID, fields=(token("A"), token("A"))),
    Request("`x-token: A, B`", INVALID, fields=(("x-token", f"{TOKENS['A']}, {TOKENS['B']}"),)),
    Request("`x-token: A`, `authorization: Bearer B`", INVALID, fields=(token("A"), bearer("B"))),
    Request("`authorization: Bearer B`, `x-token: A`", INVALID, fields=(bearer("B"), token("A"))),
    Request(
        "`x-token: A`, `authorization: Bearer A`", "200: x-token A; authorization Bearer A",
        fields=(token("A"), bearer("A")),
    ),
    Request(
        "`x-token: A`, `authorization: bearer A`", "200: x-token A; authorization bearer A",
        fields=(token("A"), bearer("A", "bearer")),
    ),
    Request("`authorization: Bearer A`, and again with B", INVALID, BY_NGINX, fields=(bearer("A"), bearer("B"))),
    Request("`x-token: A`, `authorization: Basic C`", "200: x-token A", fields=(token("A"), BASIC)),
    Request("`authorization: Basic C`, `x-token: A`", "200: x-token A", fields=(BASIC, token("A"))),
    Request(
        "`x-token: A`, `authorization: Basic C, Bearer B`", "200: x-token A",
        fields=(token("A"), ("authorization", f"{BASIC[1]}, Bearer {TOKENS['B']}")),
    ),
    # Envoy asks about both as one field, `Basic C,Bearer B`, and removes both.
    Request(
        "`x-token: A`, `authorization: Basic C`, and again with Bearer B", INVALID,
        BY_NGINX | {"envoy": "200: x-token A"}, fields=(token("A"), BASIC, bearer("B")),
    ),
    Request("`authorization: Basic C`", "401 MISSING_USER_TOKEN", fields=(BASIC,)),
    Request("`authorization: DPoP A`", INVALID, fields=(bearer("A", "DPoP"),)),
    Request("`x-token: A`, `x_token: B`", "200: x-token A", fields=(token("A"), token("B", "x_token"))),
    Request("`x_token: A`", "401 MISSING_USER_TOKEN", fields=(token("A", "x_token"),)),
    Request(
        "`x-tenant-token` twice, the second of another tenant", "401 INVALID_TENANT_TOKEN",
        fields=(token("A"),), tenant=(TENANT, OTHER_TENANT),
    ),
    Request(
        "`x-tenant-token` twice, the same", "401 INVALID_TENANT_TOKEN", fields=(token("A"),), tenant=(TENANT, TENANT)
    ),
    Request("`x-passive: true`, twice", "400 VALIDATION_ERROR", fields=(token("A"), PASSIVE, PASSIVE)),
    Request("`x-passive: yes`", "400 VALIDATION_ERROR", fields=(token("A"), ("x-passive", "yes"))),
    Request(
        "open route: `x-token: A`, `x-token: B`", "200: x-token A and B", fields=(token("A"), token("B")), target=OPEN
    ),
    Request(
        "open route: `x-token: A`, `authorization: Bearer B`", "200: x-token A; authorization Bearer B",
        fields=(token("A"), bearer("B")), target=OPEN,
    ),
    Request(
        "open route: `x-token: A`, `authorization: Basic C`", "200: x-token A; authorization Basic C",
        fields=(token("A"), BASIC), target=OPEN,
    ),
    Request(
        "open route: `authorization: Basic C`, and again with Bearer B", "200: authorization Basic C and Bearer B",
        BY_NGINX | {"envoy": "200: authorization Basic C,Bearer B"}, fields=(BASIC, bearer("B")), target=OPEN,
    ),
    Request(
        "open route: `x-tenant-token` twice, the second of another tenant",
        "200: x-tenant-token demo-tenant-token and other-tenant-token", target=OPEN, tenant=(TENANT, OTHER_TENANT),
    ),
)  # fmt: skip

KEEPS_BASIC = {
    "nginx-1.31": ("            proxy_set_header Authorization $api_authorization;", "#"),
    "caddy-2.11": ("request_header @beside -Authorization", ""),
    "haproxy-2.8": ("http-request del-header Authorization if", "# no longer:"),
    "envoy-1.40": (
        "request_headers_to_remove: [x-auth-admitted, authorization]",
        "request_headers_to_remove: [x-auth-admitted]",
    ),
    "traefik-3.7": (
        "middlewares: [no-marker-for-the-api, without-authorization]",
        "middlewares: [no-marker-for-the-api]",
    ),
}
"""Proxy → the line of its example that removes `Authorization: Basic` beside `x-token`, and what to make of it."""


@pytest.fixture(scope="module", params=PROXIES)
def at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestServices]:
    with gate(PROXIES[request.param], tmp_path_factory.mktemp(request.param)) as made:
        yield made


def shown(value: str) -> str:
    """A field's value, with the tokens' names in place of the tokens."""
    for name, one in TOKENS.items():
        value = value.replace(one, name)
    return value.replace(BASIC[1], "Basic C")


def outcome(at: RequestServices, row: Request) -> str:
    """What the client sees, and which credentials the API receives."""
    fields: Fields = [*row.tenant, *row.fields]
    status, received = at.send(row.target, fields)
    if received is None:
        return status
    assert received.all("x-tenant-token") == [value for _, value in row.tenant]
    if row.target == JUDGED:
        assert received.all("x-auth-user") == ["user-A"]
    names = ("x-token", "authorization") if row.tenant == (TENANT,) else ("x-tenant-token", "x-token", "authorization")
    reported = {name: " and ".join(map(shown, received.all(name))) for name in names}
    for name, value in reported.items():  # a WSGI API sees no other credential under any spelling of the name
        assert shown(received.environ.get(f"HTTP_{name.upper().replace('-', '_')}", "")) == value.replace(" and ", ",")
    return f"{status}: {'; '.join(f'{name} {value}' for name, value in reported.items() if value)}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_the_api_receives_exactly_the_credentials_that_were_judged(at: RequestServices, row: Request) -> None:
    assert outcome(at, row) == row.at(at.proxy)


@pytest.mark.parametrize("name", KEEPS_BASIC)
def test_the_line_that_the_readme_names_keeps_basic_authentication(name: str, tmp_path: Path) -> None:
    line, instead = KEEPS_BASIC[name]
    files = {file: file.read_text() for file in (ROOT / "examples" / name.partition("-")[0]).iterdir()}
    assert sum(text.count(line) for text in files.values()) == 1
    assert line.strip() in (ROOT / "examples" / "README.md").read_text()
    beside = Request("", "", fields=(token("A"), BASIC))
    with gate(PROXIES[name], tmp_path, lambda text: text.replace(line, instead)) as changed:
        assert outcome(changed, beside) == "200: x-token A; authorization Basic C"
