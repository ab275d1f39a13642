"""What a client can add to, change in or remove from what the API hears of it: nothing, at any proxy of `examples/`."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.kit import Answer, needs
from tests.proxies.backend import Received
from tests.proxies.outcomes import Fields, RequestServices, Row, gate
from tests.proxies.spellings import (
    IDENTITY,
    PROTECTED,
    UNLISTED,
    all_of,
    underscored,
    with_signs,
    written,
)  # fmt: skip
from tests.proxies.test_forward_auth import credentials
from tests.proxies.versions import PROXIES

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]

WHO = list(credentials("anna").items())
PLACES = ("/api/things", "/public/logo.svg")
"""A route that asks for credentials, and an open one."""
FORGED = "forged"
OVER_HTTP_2 = ("caddy-2.11", "haproxy-2.6", "haproxy-2.8", "envoy-1.40", "traefik-3.7")
"""Those that take HTTP/2 in clear text where the examples listen."""
REMOVED, ARRIVES, REFUSED = "200, removed", "200, **arrives**", "400"
KEPT, LOST = "200, kept", "200, **lost**"


@dataclass(frozen=True)
class Forgery(Row):
    """Fields that are no client's to send, in some spellings."""

    names: tuple[str, ...] = PROTECTED
    spell: Callable[[str], list[str]] = written


FORGERIES = (
    Forgery("a field of the list, in any case", REMOVED),
    Forgery("`_` in place of `-`, everywhere or somewhere (`X-Auth_User`)", REMOVED, spell=underscored),
    Forgery("another sign in place of `-` (`X.Auth.User`, `X-Auth!User`)", REMOVED, spell=with_signs),
    Forgery("a blank before the colon (`X-Auth-User : root`)", REFUSED, spell=lambda name: [f"{name} "]),
    Forgery(
        "a field of a family that no list names (`X-Auth-Anything`)",
        REMOVED, {"nginx": ARRIVES}, names=UNLISTED,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Nomination(Row):
    """Fields that a client names in `Connection`, for the next server to remove."""

    names: tuple[str, ...] = IDENTITY


NOMINATIONS = (
    Nomination("`Connection: X-Auth-User`, and the others of the identity", KEPT),
    Nomination(
        "`Connection: X-Forwarded-For`, `-Proto`, `-Host`, `Host`", KEPT, {"envoy": REFUSED},
        names=("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "host"),
    ),
    Nomination("`Connection: X-Request-Id`, `X-Real-Ip`", KEPT, names=("x-request-id", "x-real-ip")),
    Nomination(
        "`Connection: X-Token`, the client's own", KEPT,
        dict.fromkeys(("caddy", "envoy", "traefik"), "401 MISSING_USER_TOKEN"), names=("x-token",),
    ),
    Nomination(
        "`Connection: X-Tenant-Token`, the client's own", KEPT,
        dict.fromkeys(("caddy", "envoy", "traefik"), "401 MISSING_TENANT_TOKEN"), names=("x-tenant-token",),
    ),
)  # fmt: skip

TRAILER = Row(
    "`X-Auth-User` in the trailer of a chunked body", "200, removed",
    {"haproxy": "200, arrives as a trailer field"},
)  # fmt: skip
ROWS = (*FORGERIES, *NOMINATIONS, TRAILER)


@pytest.fixture(scope="module", params=PROXIES)
def at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestServices]:
    with gate(PROXIES[request.param], tmp_path_factory.mktemp(request.param)) as made:
        made.send(PLACES[0], WHO)  # logs her in: from now on she is heard of alike
        yield made


@pytest.fixture(scope="module")
def usual(at: RequestServices) -> dict[str, Received]:
    """What the API receives of a request without anything forged, by place."""
    received = {place: at.send(place, WHO)[1] for place in PLACES}
    return {place: one for place, one in received.items() if one is not None}


def heard(received: Received) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """All that an API hears of a request, but for the request's own number."""
    lines = [(name, "" if name == "x-request-id" else value) for name, value in received.lines]
    environ = {name: "" if name == "HTTP_X_REQUEST_ID" else value for name, value in received.environ.items()}
    return sorted(lines), environ


def outcome(at: RequestServices, usual: dict[str, Received], place: str, fields: Fields, same: str, other: str) -> str:
    """What comes of the fields beside a user's credentials, as a row says it."""
    status, received = at.send(place, [*WHO, *fields])
    if received is None:
        return status
    return same if heard(received) == heard(usual[place]) else other


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", FORGERIES, ids=lambda row: row.case)
def test_a_field_that_is_no_clients_reaches_the_api_in_no_spelling(
    at: RequestServices, usual: dict[str, Received], row: Forgery, place: str
) -> None:
    for name in row.names:
        spellings = row.spell(name)
        requests = [[(one, FORGED)] for one in spellings]
        if len(spellings) > 1 and row.names == PROTECTED:
            together = [(one, FORGED) for one in spellings for _ in range(2)]
            requests = [*(requests if name == "x-auth-user" else []), together]
        for fields in requests:
            assert outcome(at, usual, place, fields, REMOVED, ARRIVES) == row.at(at.proxy), fields


@pytest.mark.parametrize("row", NOMINATIONS, ids=lambda row: row.case)
def test_what_a_client_names_in_connection_the_api_hears_all_the_same(
    at: RequestServices, usual: dict[str, Received], row: Nomination
) -> None:
    for name in row.names:
        for said in ((name,), (name.title(),), (f"close, {name}",), (f"{name},{name}",), ("keep-alive", name)):
            fields = [("connection", one) for one in said]
            assert outcome(at, usual, PLACES[0], fields, KEPT, LOST) == row.at(at.proxy), said


def test_a_client_adds_nothing_to_the_identity_by_a_trailer(at: RequestServices, usual: dict[str, Received]) -> None:
    fields = [*WHO, ("trailer", "X-Auth-User"), ("te", "trailers")]
    status, received = at.send(PLACES[0], fields, b"3\r\nabc\r\n0\r\nX-Auth-User: forged\r\n\r\n")
    assert received is not None
    assert received.environ["HTTP_X_AUTH_USER"] == "anna"
    is_there = received.trailer == (("x-auth-user", FORGED),)
    assert is_there or not received.trailer
    assert TRAILER.at(at.proxy) == (f"{status}, arrives as a trailer field" if is_there else f"{status}, removed")


def test_over_http_2_a_client_adds_nothing_either(at: RequestServices) -> None:
    curl = shutil.which("curl")
    needs("curl", found=curl is not None)
    command = [str(curl), "-s", "--http2-prior-knowledge", at.url(PLACES[0])]
    for name, value in [*WHO, *((one, FORGED) for one in dict.fromkeys(map(str.lower, all_of("x-auth-user"))))]:
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    if at.proxy.id not in OVER_HTTP_2:
        assert done.returncode != 0, "it speaks HTTP/1 alone on this port"
        return
    received = Received.of(Answer(200, {}, done.stdout))
    at.start_counting()
    assert received.environ["HTTP_X_AUTH_USER"] == "anna"
    assert FORGED not in str(received)


def test_what_the_proxy_says_arrives_exactly_once(at: RequestServices) -> None:
    forged = [(one, FORGED) for name in (*IDENTITY, "x-forwarded-for", "x-forwarded-proto") for one in all_of(name)]
    for start in range(0, len(forged), 40):
        _, received = at.send(PLACES[0], [*WHO, *forged[start : start + 40]])
        assert received is not None
        assert received.all("x-forwarded-for") == ["127.0.0.1"]
        assert received.all("x-forwarded-proto") == ([] if at.proxy.name == "haproxy" else ["http"])
        assert received.all("host") == ["api.example"]
        assert len(received.all("x-request-id")) == 1
        reported = [received.all(name) for name in IDENTITY[:3]]
        assert reported == [["demo"], ["anna"], ["logged_in"]]
        assert received.environ["HTTP_X_AUTH_USER"] == "anna"
        assert len(received.all("x-auth-expires")) == 1


def test_of_an_open_route_the_api_hears_no_identity_at_all(usual: dict[str, Received]) -> None:
    assert not {name for name, _ in usual[PLACES[1]].lines if name in IDENTITY}, "not even an empty one"


def test_no_spelling_of_an_address_escapes_a_limit_where_the_client_asks_rollcall_itself(at: RequestServices) -> None:
    names = ("x-forwarded-for", "x-real-ip", "forwarded")
    requests = [[(one, "for=9.9.9.9" if one == "forwarded" else "9.9.9.9")] for name in names for one in all_of(name)]
    requests += [[("connection", name)] for name in names]
    answers = [at.ask("/auth/status", [*WHO, *fields]).status for fields in [[], *requests]]
    assert answers[0] == 200
    assert set(answers[1:]) <= {429, 400}, "400: Envoy's, of some fields in Connection"
    assert answers.count(400) == (1 if at.proxy.name == "envoy" else 0)
