"""No server that may be behind a proxy reaches, by any path, what the rules deny.

hypothesis makes up targets. For each that the rules admit, in whole or for some, every reader says what it would serve;
that must be something that this admission covers. `PATH_EXAMPLES` says how many are tried; `make paths` tries many.

The targets are about the rules of this service. None is there for what it does to another server.
"""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.core.admission import Terms
from service.core.errors import UnreadableRequest
from service.core.routing.routes import Protected, Route, RouteTable
from tests.kit import needs
from tests.proxies.deployment import Deployment, deployed
from tests.proxies.path_readers import Reader, path_readers
from tests.proxies.test_forward_auth import a_tenant, credentials
from tests.proxies.test_path_tricks import ask
from tests.proxies.versions import PROXIES

CI = os.environ.get("CI") == "true"
EXAMPLES = int(os.environ.get("PATH_EXAMPLES", "2000"))
OPTIONAL = {"go"}
"""Programs that CI need not have: half a gigabyte of packages."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180 + EXAMPLES * 0.1)]

ROUTES: list[dict[str, Any]] = [
    {"path": "/api/payments/*", "methods": ["POST"], "capability": "payments"},
    {"path": "/public/*", "open": True},
    {"path": "/static/*", "open": True},
    {"path": "/api/*", "capability": "api"},
]
RULES = Protected(
    RouteTable(
        [
            Route(
                tuple(rule["path"].split("/")[1:]),
                frozenset(rule.get("methods", ())),
                rule.get("capability"),
                open=rule.get("open", False),
            )
            for rule in ROUTES
        ]
    ),
    Terms(None, "verify"),
    (),
)
OPEN = frozenset({"public", "static"})

UNRESERVED = re.compile(r"%(2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)", re.IGNORECASE)


def needed(method: str, zone: str) -> str | None:
    """The capability without which nobody may reach a zone by this method; `nobody`: no rule admits anyone."""
    if zone in OPEN:
        return None
    if zone == "payments":
        return "payments" if method == "POST" else "api"
    return "api" if zone == "api" else "nobody"


def granted(method: str, target: str) -> set[str | None] | None:
    """What whoever is admitted has shown to have; None: nobody is admitted."""
    try:
        terms = RULES.terms(method, target)
    except UnreadableRequest:
        return None
    return None if terms.forbidden else {None, *terms.capabilities}


METHODS = st.sampled_from(("GET", "POST", "DELETE"))
ROOTS = st.sampled_from(
    ("/public", "/static", "/api", "/api/payments", "/admin", "/public/x", "/api/x", "", "http://h")
)
NAMES = st.sampled_from(("api", "payments", "public", "static", "admin", "x", "7", "a.b", "users"))
SEPARATORS = st.sampled_from(("/",) * 5 + ("//", "///", "%2f", "%2F", "/%2f", "%2F%2F", ";/", ";x=1/", "/;x/", "%3b/"))
HIDDEN = st.sampled_from(
    (
        *(
            "/../",
            "/./",
            "/..",
            "/.",
            "/%2e%2e/",
            "/.%2E/",
            "/%2e/",
            "%2f..%2f",
            "%2F.%2f",
            "/..%2f",
            "%2f../",
            "/..;/",
        ),
        *(
            "/..;x/",
            "/..%3b/",
            "/.;/",
            "/..%20/",
            "/...",
            "//../",
            "/..//",
            "\\",
            "%5c",
            "/..\\",
            "%5C..%5c",
            "#",
            "/..#",
        ),
        *(
            "%252f",
            "%252e%252e/",
            "/%25%32%65/",
            "%c0%af",
            "%c0%ae%c0%ae/",
            "%ff",
            "%00",
            "%0a",
            "%09",
            "%7f",
            "%",
            "%2",
        ),
    )
)
PLAIN = st.sampled_from(
    (";", ";a;b=1", "%3B", "%3f", "%23", "?", "%20", "+", "~", "%7e", ":", "@", "*", "é", "%c3%a9", ".")
)
LETTERS = st.sampled_from("abimnps").map(lambda letter: f"%{ord(letter):02x}")


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """Method and target: a path of the API's, with what servers read differently put in here and there.

    Upper case letters are left out: a server that ignores case needs rules for both, and Caddy is one.
    """
    names = draw(st.lists(st.tuples(SEPARATORS, NAMES), max_size=5))
    pieces = [draw(ROOTS), *(part for pair in names for part in pair)]
    odd = st.one_of(PLAIN, PLAIN, LETTERS, SEPARATORS, HIDDEN)
    for piece in draw(st.lists(odd, max_size=3)):
        pieces.insert(draw(st.integers(1, len(pieces))), piece)
    target = "".join(pieces) + draw(st.sampled_from(("", "", "/", "//", "?q=/../x")))
    if draw(st.booleans()):  # a letter of some name, encoded
        place = draw(st.integers(0, max(0, len(target) - 1)))
        letter = target[place : place + 1]
        if letter.isalpha() and letter.isascii() and "%" not in target[max(0, place - 2) : place]:
            target = f"{target[:place]}%{ord(letter):02x}{target[place + 1 :]}"
    return draw(METHODS), target or "/"


@pytest.fixture(scope="module")
def readers(request: pytest.FixtureRequest) -> Iterator[list[Reader]]:
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)  # nginx's workers give up root
        with path_readers(Path(folder)) as made:
            for name, ones in made.items():
                if CI and name not in OPTIONAL:  # elsewhere those are asked that are there
                    needs(name, found=bool(ones))
            yield [reader for ones in made.values() for reader in ones]


def reached(readers: list[Reader], method: str, target: str) -> Mapping[str, frozenset[str]]:
    """Reader → the zones that it takes the target for."""
    raw_differs = UNRESERVED.search(target) is not None
    return {one.name: one.zones(method, target) for one in readers if not (one.is_raw and raw_differs)}


def test_no_reader_reaches_what_the_rules_deny(readers: list[Reader], capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[tuple[str, str], str] = {}

    @settings(
        max_examples=EXAMPLES,
        derandomize=CI,  # there the same are tried each time: whether work lands is no matter of luck
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @example(("GET", "/public/../static/x%2f..%2f..%2fadmin/users"))
    @example(("GET", "/public/../api/x%2f..%2f..%2fadmin/users"))
    @example(("GET", "//public;x/static/admin"))
    @example(("GET", "///public/admin/users"))
    @example(("DELETE", "////static/admin/users"))
    @example(("POST", "///public/api/payments/7"))
    @example(("POST", "/api/x//../../payments/7"))
    @example(("GET", "/.//public/admin"))
    @example(("GET", "/public/../admin/%2e%2e/public/x"))
    @example(("GET", "/public/..;/admin/..%3b/public/x"))
    @example(("POST", "/api/payments%3F/public"))
    @example(("POST", "/api//payments%2F7"))
    @example(("POST", "/api/payments."))
    @example(("POST", "/api/payments%20"))
    @given(requests())
    def tried(asked: tuple[str, str]) -> None:
        shown = granted(*asked)
        seen[asked] = "refused" if shown is None else "admitted"
        if shown is None:
            return
        for reader, zones in reached(readers, *asked).items():
            for zone in zones:
                assert needed(asked[0], zone) in shown, f"{reader} takes {asked} for {zone}"

    tried()
    count = Counter(seen.values())
    with capsys.disabled():
        print(  # noqa: T201  # the figures are what a long run is made for
            f"\n{len(readers)} readers, {len(seen)} paths: {count['admitted']} admitted to somebody, none further"
        )
    assert count["admitted"] > EXAMPLES / 10, "what is tried is worth trying"


@pytest.mark.parametrize(
    "target", ["/api//payments/7", "/api/payments%2F7", "/api/payments;x/7", "/public/../api/x", "//api/x"]
)
def test_the_readers_disagree_where_the_rules_take_them_to(readers: list[Reader], target: str) -> None:
    """Or there would be nothing to find."""
    zones = reached(readers, "POST", target)
    assert len(frozenset[str]().union(*zones.values())) > 1, zones


def test_each_reader_knows_the_zones(readers: list[Reader]) -> None:
    for target, zone in {
        "/public/x": "public",
        "/static": "static",
        "/api/7": "api",
        "/api/payments/7": "payments",
    }.items():
        assert set(reached(readers, "POST", target).values()) == {frozenset({zone})}


@pytest.fixture(scope="module", params=PROXIES)
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    def change(content: dict[str, Any]) -> None:
        content["routes"] = ROUTES
        content["limits"] = {"verify": []}
        content["tenants"]["poor"] = a_tenant("poor", restricted_capabilities=["payments"])

    with deployed(PROXIES[request.param], tmp_path_factory.mktemp("forwarded"), change) as made:
        yield made


WHO: dict[str, dict[str, str]] = {"nobody": {}, "user": credentials("u"), "poor": credentials("p", tenant="poor")}
SHOWN: dict[str, set[str | None]] = {"nobody": {None}, "user": {None, "api", "payments"}, "poor": {None, "api"}}


@pytest.mark.real_redis
def test_what_a_proxy_forwards_is_admitted_by_the_rules_as_what_it_asked_about(deployment: Deployment) -> None:
    """A proxy may resolve, merge or encode anew before it asks or after: the API's target must not mean more."""
    forwarded = 0

    @settings(
        max_examples=max(100, EXAMPLES // 20),
        derandomize=CI,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(requests())
    def tried(asked: tuple[str, str]) -> None:
        nonlocal forwarded
        method, target = asked
        for name, headers in WHO.items():
            deployment.upstream.seen.clear()
            ask(deployment.port, target, headers, method)
            for seen in deployment.upstream.seen:
                needs_shown = granted(method, seen["target"])
                assert needs_shown is not None, f"{asked} of {name} is forwarded as {seen['target']}"
                assert needs_shown <= SHOWN[name], f"{asked} of {name} is forwarded as {seen['target']}"
                forwarded += 1

    tried()
    assert forwarded > 20, "what is tried is worth trying"
