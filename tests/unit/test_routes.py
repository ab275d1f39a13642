"""Protected routes: the first rule that matches holds, for every reading of a path."""

import gc
import random
import weakref

import pytest

from service.core.admission import Terms
from service.core.errors import UnreadableRequest
from service.core.limits import Limit, Per
from service.core.routing.routes import MOST_REMEMBERED, REMEMBERED, Protected, Route, RouteTable

RULES = {
    "payments": Route(("api", "payments", "*"), frozenset({"POST"}), "payments"),
    "reports": Route(("api", "*", "reports"), frozenset({"GET"}), "reports"),
    "public": Route(("public", "*"), open=True),
    "health": Route(("health",), open=True),
    "preflight": Route(("*",), frozenset({"OPTIONS"}), open=True),
    "api": Route(("api", "*"), capability="api"),
}
NAMES = list(RULES)
TABLE = RouteTable(list(RULES.values()))


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("POST", "api/payments/7", "payments"),
        ("POST", "api/payments", "payments"),
        ("GET", "api/payments/7", "api"),
        ("POST", "api/paymentsx", "api"),
        ("GET", "api/eu/reports", "reports"),
        ("HEAD", "api/eu/reports", "reports"),
        ("GET", "api/eu/reports/7", "api"),
        ("GET", "api/eu/de/reports", "api"),
        ("GET", "public", "public"),
        ("DELETE", "public/a/b/c", "public"),
        ("GET", "Public/a", None),
        ("GET", "health", "health"),
        ("GET", "health/x", None),
        ("OPTIONS", "whatever/there/is", "preflight"),
        ("OPTIONS", "", "preflight"),
        ("OPTIONS", "api/payments", "preflight"),
        ("GET", "", None),
    ],
)
def test_the_first_rule_that_matches_method_and_path_holds(method: str, path: str, rule: str | None) -> None:
    assert TABLE.find(method, f"/{path}") == {None if rule is None else NAMES.index(rule)}


def one_by_one(routes: list[Route], method: str, path: tuple[str, ...]) -> int | None:
    """The rules as they read: tried in their order."""
    for number, route in enumerate(routes):
        pattern = route.pattern
        open_ended = pattern[-1:] == ("*",)
        fixed = pattern[:-1] if open_ended else pattern
        named = route.methods | ({"HEAD"} if "GET" in route.methods else set())
        fits = len(path) >= len(fixed) if open_ended else len(path) == len(fixed)
        names = all(want in ("*", have) for want, have in zip(fixed, path, strict=False))
        if fits and names and (not named or method in named):
            return number
    return None


def test_the_compiled_rules_are_the_rules_tried_one_by_one() -> None:
    choose = random.Random(4)
    for _ in range(300):
        routes = [
            Route(
                tuple(choose.choices("ab*", k=choose.randint(0, 4))),
                frozenset(choose.sample(["GET", "POST", "PUT"], choose.randint(0, 2))),
            )
            for _ in range(choose.randint(0, 12))
        ]
        table = RouteTable(routes)
        for _ in range(50):
            method = choose.choice(["GET", "HEAD", "POST"])
            path = tuple(choose.choices("abc*", k=choose.randint(0, 5)))
            found = table.find(method, "/" + "/".join(path))
            assert found == {one_by_one(routes, method, path)}, (routes, method, path)


def test_a_path_of_stars_costs_no_more_than_its_length() -> None:
    table = RouteTable([Route(("*",) * 60)])
    assert table.find("GET", "/*" * 60) == {0}  # doubling at each step, this would not end


def test_a_path_of_many_readings_costs_no_more_than_its_length() -> None:
    table = RouteTable([Route(("files", "*", "raw")), Route(("files", "*"), capability="api")])
    assert table.find("GET", "/files" + "/a%2Fb;c" * 20) == {1}
    assert table.find("GET", "/files/" + "a%2F" * 60 + "b/raw") == {0, 1}


LIMIT = Limit("verify-ip", Per.IP, 10, 60)
SMALL = Limit("payments-user", Per.USER, 5, 60)
VERIFY = Terms("acme", "verify", (LIMIT,), capabilities=("verify",))


def protected(*routes: Route, restricted: tuple[str, ...] = ()) -> Protected:
    return Protected(RouteTable(routes), VERIFY, restricted)


def test_a_routes_capability_and_limits_come_on_top_of_the_operations() -> None:
    terms = protected(Route(("*",), capability="api", limits=(SMALL,))).terms("GET", "/x")
    assert terms.capabilities == ("verify", "api")
    assert terms.limits == (LIMIT, SMALL)
    assert (terms.tenant, terms.open, terms.forbidden, terms.restricted) == ("acme", False, False, None)


def test_terms_are_made_once() -> None:
    routes = protected(Route(("*",)))
    assert routes.terms("GET", "/x") is routes.terms("POST", "/y")


def test_the_restricted_capability_of_a_route_is_named() -> None:
    assert protected(Route(("*",), capability="api"), restricted=("api",)).terms("GET", "/x").restricted == "api"


def test_what_no_rule_matches_is_forbidden_to_all() -> None:
    assert protected(Route(("a",), open=True)).terms("GET", "/b").forbidden


@pytest.mark.parametrize("target", ["/items//public", "/items/a%2Fpublic", "/items/a%3F/public"])
def test_a_target_with_two_readings_is_held_to_the_rules_of_both(target: str) -> None:
    routes = protected(
        Route(("items", "*", "public"), open=True), Route(("items", "*"), capability="api", limits=(SMALL,))
    )
    assert routes.terms("GET", "/items/a/public").open
    terms = routes.terms("GET", target)
    assert not terms.open
    assert terms.capabilities == ("verify", "api")
    assert terms.limits == (LIMIT, SMALL)


@pytest.mark.parametrize(
    "target",
    ["/items//a/public", "/items/a/;/public", "/items/a;/public", "/items/a%2Fpublic", "/items/a/public%3Fx"],
)
def test_one_reading_that_no_rule_admits_is_enough_to_be_forbidden(target: str) -> None:
    routes = protected(Route(("items", "a", "public"), open=True))
    assert routes.terms("GET", "/items/a/public").open
    assert routes.terms("GET", target).forbidden


@pytest.mark.parametrize(
    "target",
    [
        "/public/../static/x%2f..%2f..%2fadmin/users",
        "/public/../api/x%2f..%2f..%2fadmin/users",
        "//public;x/static/admin",
        "/api/x%2f..%2f..%2fadmin/items",
        "///public/admin/users",
        "////static/admin/users",
        "///public/api/payments/7",
        "///api///payments///7",
        "/api/x//../../payments/7",
        "/.//public/admin",
        "/public/../admin/%2e%2e/public/x",
        "/public/..;/admin/..%3b/public/x",
    ],
)
def test_a_target_in_which_servers_resolve_something_is_refused_whatever_the_rules(target: str) -> None:
    routes = protected(
        Route(("api", "payments", "*"), frozenset({"POST"}), "payments"),
        Route(("public", "*"), open=True),
        Route(("static", "*"), open=True),
        Route(("api", "*", "items")),
        Route(("api", "*"), capability="api"),
        Route(("*",), capability="any"),
    )
    for method in ("GET", "DELETE", "POST"):
        for _ in range(2):  # nothing else is remembered of it
            with pytest.raises(UnreadableRequest):
                routes.terms(method, target)


@pytest.mark.parametrize(
    "target",
    [
        "/api/v4/projects/group%2Fsub%2Fproject/repository/files/src%2Fmain%2Fjava%2Forg%2Fexample%2FMain.java/raw",
        "/api/@scope%2Fpackage/-/package-1.0.0.tgz",
        "/api/owners/42;q=11;r=22/pets/21;s=23",
        "/api/app/;jsessionid=1",
        "/api/bucket/folder//object",
        "/api/wiki/What%3F",
        "/api/tags/C%23/posts",
        "/api/~user/1,2,3/a:b@c!$&'()*+=",
        "/api/%7Euser/caf%C3%A9/100%25/",
        "/api/.well-known/..hidden/v1...v2",
    ],
)
def test_targets_of_real_apis_are_admitted_where_one_rule_holds_for_all_below(target: str) -> None:
    terms = protected(Route(("api", "*"), capability="api")).terms("GET", target)
    assert (terms.forbidden, terms.capabilities) == (False, ("verify", "api"))


def remembered() -> int:
    return Protected._known.cache_info().currsize


def test_what_is_remembered_of_paths_is_bounded_in_number_and_in_length() -> None:
    Protected.forget()
    routes = protected(Route(("*",), capability="api"))
    for number in range(REMEMBERED + 100):
        routes.terms("GET", f"/a/{number}?query")
    assert remembered() == REMEMBERED
    Protected.forget()
    routes.terms("GET", "/" + "a" * MOST_REMEMBERED)
    assert remembered() == 0
    for target in ("/../a", "//a"):
        with pytest.raises(UnreadableRequest):
            routes.terms("GET", target)
    assert remembered() == 0


def test_what_was_found_for_a_path_keeps_no_rules_alive_once_forgotten() -> None:
    made = Protected(RouteTable([Route(("api", "*"))]), Terms("acme", "verify", capabilities=("verify",)), ())
    made.terms("GET", "/api/x")
    gone = weakref.ref(made)
    del made
    Protected.forget()
    gc.collect()
    assert gone() is None
