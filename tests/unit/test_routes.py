"""Protected routes: the first rule that matches holds, whichever way a path is read."""

import gc
import random
import weakref

import pytest

from service.core.admission import Terms
from service.core.limits import Limit, Per
from service.core.routes import Protected, Route, RouteTable

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
    number = TABLE.find(method, tuple(filter(None, path.split("/"))))
    assert (None if number is None else NAMES[number]) == rule


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
            assert table.find(method, path) == one_by_one(routes, method, path), (routes, method, path)


def test_a_path_of_stars_costs_no_more_than_its_length() -> None:
    table = RouteTable([Route(("*",) * 60)])
    assert table.find("GET", ("*",) * 60) == 0  # doubling at each step, this would not end


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


def test_what_can_be_read_in_two_ways_is_held_to_the_rules_of_both() -> None:
    routes = protected(Route(("public", "*"), open=True), Route(("api", "*"), capability="api", limits=(SMALL,)))
    for target in ("/public/../api/x", "/api/../public/x"):
        terms = routes.terms("GET", target)
        assert not terms.open
        assert terms.capabilities == ("verify", "api")
        assert terms.limits == (LIMIT, SMALL)


def test_one_reading_that_no_rule_admits_is_enough_to_be_forbidden() -> None:
    assert protected(Route(("public", "*"), open=True)).terms("GET", "/x/../public/y").forbidden


def test_what_was_found_for_a_path_keeps_no_rules_alive_once_forgotten() -> None:
    made = Protected(RouteTable([Route(("api", "*"))]), Terms("acme", "verify", capabilities=("verify",)), ())
    made.terms("GET", "/api/x")
    gone = weakref.ref(made)
    del made
    Protected.forget()
    gc.collect()
    assert gone() is None
