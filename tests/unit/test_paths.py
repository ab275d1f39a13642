"""Targets that all servers read alike, those that have several readings, and those that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import UnreadableRequest
from service.core.routing.paths import JOINED, MAX_AMBIGUITIES, walk

Names = tuple[str, ...]


def readings(target: str) -> set[Names]:
    """All readings of a target, as names. `JOINED` is a name that holds an encoded slash."""
    start: Names = ()
    return set(walk(target, start, lambda names, name: (*names, name)))


ONE_READING: dict[str, Names] = {
    "/": (),
    "/a": ("a",),
    "/a/": ("a",),
    "/a/b?x=/../y": ("a", "b"),
    "/a?": ("a",),
    "/a?b?c#": ("a",),
    "/%61/b": ("a", "b"),
    "/%7Ea/b%2D": ("~a", "b-"),
    "/a%20b": ("a b",),
    "/a+b": ("a+b",),
    "/caf%C3%A9": ("café",),
    "/café": ("café",),
    "/.well-known/x": (".well-known", "x"),
    "/a/..b": ("a", "..b"),
    "/v1...v2/a..b": ("v1...v2", "a..b"),
    "/100%25": ("100%",),
    "http://host/a": ("a",),
    "HTTPS://host:1/a/b": ("a", "b"),
    "http://[::1]:80/a": ("a",),
    "http://host": (),
    "http://host?a": (),
}

SEVERAL_READINGS: dict[str, set[Names]] = {
    "/a//b": {("a", "b"), ("a", "", "b")},
    "/a///b": {("a", "b"), ("a", "", "b"), ("a", "", "", "b")},
    "/a//": {("a",), ("a", "")},
    "http://host/a//b": {("a", "b"), ("a", "", "b")},
    "/a/http://b": {("a", "http:", "b"), ("a", "http:", "", "b")},
    "/public%2fapi": {("public", "api"), (JOINED,)},
    "/a%2Fb%2fc": {("a", "b", "c"), (JOINED,), (JOINED, "c"), ("a", JOINED)},
    "/a/b%2F": {("a", "b"), ("a", "b", ""), ("a", JOINED)},
    "/a/%2Fb": {("a", "b"), ("a", "", "b"), ("a", JOINED)},
    "/public;x=1/api": {("public;x=1", "api"), ("public", "api")},
    "/a;x/b;y": {("a;x", "b;y"), ("a", "b"), ("a;x", "b"), ("a", "b;y")},
    "/a;x;y": {("a;x;y",), ("a",)},
    "/a%3Bx": {("a;x",), ("a",)},
    "/a/;x/b": {("a", ";x", "b"), ("a", "b"), ("a", "", "b")},
    "/;jsessionid=1": {(";jsessionid=1",), (), ("",)},
    "/a;x%2Fb": {("a;x", "b"), ("a", "b"), (JOINED,), ("a",)},
    "/a./b": {("a.", "b"), ("a", "b")},
    "/a/b..": {("a", "b.."), ("a", "b")},
    "/a%20/b.%20/": {("a ", "b. "), ("a", "b. "), ("a ", "b"), ("a", "b")},
    "/a.;x": {("a.;x",), ("a.",), ("a",)},
    "/a;x.": {("a;x.",), ("a;x",), ("a",)},
    "/a/%20/b": {("a", " ", "b"), ("a", "", "b"), ("a", "b")},
    "/a.%3Fc/d": {("a.?c", "d"), ("a.",), ("a",)},
    "/a/b%3Fc/d": {("a", "b?c", "d"), ("a", "b")},
    "/a/b%23c/d": {("a", "b#c", "d"), ("a", "b")},
    "/a/%3Fc": {("a", "?c"), ("a",), ("a", "")},
}

REFUSED = {
    "no path": ["", "a", "*", "host:443", "?a", "ftp://host/a", "http:/a", "http:///a", "http://?a", "http://u:p@host/a"],
    "a dot segment": [
        *("/.", "/..", "/./a", "/a/.", "/a/./b", "/../a", "/a/..", "/a/../b", "/a/../../b", "/.//a", "/a//../b"),
        *("/%2e/a", "/a/%2E%2e/b", "/a/.%2E/b", "/a/%2e%2e", "/a/..%2fb", "/a%2f..%2fb", "/a%2F.", "http://host/../a"),
        *("/a/..;/b", "/a/..;x=1/b", "/a/..%3b/b", "/a/.;", "/a/%2e%2e;x", "/a/..%20/b", "/a/%20../b", "/a/..%c2%a0/b"),
        *("/...", "/a/..../b", "/a/.%20./b", "/a/...;x", "/a/%2e%2e%2e"),
        *("/a/..%3F/b", "/a/..%23", "/public/..;/admin/..%3b/public/x", "/public/../admin/%2e%2e/public/x"),
    ],
    "an empty segment at the start": [
        *("//", "//a", "///a", "////a/b", "/%2fa", "/%2F", "//%2Fa", "http://host//a", "//host;x/a"),
        *("//public;x/static/a", "/;/a", "/;x/a", "/;x%2Fa", "/%3b/a", "/;/", "/%20/a", "/%20;x%2Fa"),
    ],
    "what is not printable": [
        *("/a b", "/a\tb", "/a#b", "/a\x01", "/a\x7f", "/%00", "/a%0d%0ab", "/a%7f", "/%c2%85", "/a%09", "/a/..%09/b"),
    ],
    "a backslash": ["/a\\b", "/a%5cb", "/a/..\\b", "/\\host/a", "/%5C%5Chost/a"],
    "an encoding that is broken or doubled": [
        *("/%", "/%2", "/%zz", "/%u002e", "/a/%%32e/b", "/%252e%252e/a", "/a%252fb", "/%2525", "/a%25%32%66b"),
        "/a%25u002e/b",
    ],
    "what is not UTF-8": [
        *("/%c0%ae%c0%ae/a", "/%e0%80%ae/a", "/%c0%af", "/%ff", "/%ed%a0%80", "/\udcff", "/\udcc0\udcae/a", "/a%e2%82"),
    ],
    "too much": [
        *("/%61" * 3000, "/a" + "//a" * (MAX_AMBIGUITIES + 1), "/a" + "%2Fa" * (MAX_AMBIGUITIES + 1)),
        *("/a;x" * (MAX_AMBIGUITIES + 1), "/a;x" * 8),
    ],
}  # fmt: skip


@pytest.mark.parametrize("target", ONE_READING)
def test_a_target_that_all_servers_read_alike_has_one_reading(target: str) -> None:
    assert readings(target) == {ONE_READING[target]}


@pytest.mark.parametrize("target", SEVERAL_READINGS)
def test_a_target_that_servers_read_differently_has_every_combination_of_readings(target: str) -> None:
    assert readings(target) == SEVERAL_READINGS[target]


@pytest.mark.parametrize(("why", "target"), [(why, target) for why, targets in REFUSED.items() for target in targets])
def test_a_target_that_is_in_no_normal_form_is_refused(why: str, target: str) -> None:
    with pytest.raises(UnreadableRequest):
        readings(target)


def test_readings_that_lead_to_the_same_place_are_followed_once() -> None:
    asked: list[int] = []

    def step(state: int, name: str) -> int:
        asked.append(state)
        return min(state + 1, 2)

    assert set(walk("/files" + "/a%2Fb;c" * 20, 0, step)) == {2}
    assert len(asked) < 200, "not a step for each of the combinations, of which there are millions"


@given(st.text(alphabet="/.%2eEfF5cC3b0;a\\?#: é\udcff", max_size=40).map("/".__add__))
def test_whatever_is_sent_is_refused_or_has_readings_without_anything_to_resolve(target: str) -> None:
    try:
        found = readings(target)
    except UnreadableRequest:
        return
    assert 1 <= len(found) <= MAX_AMBIGUITIES
    for names in found:
        assert not any(set(name.partition(";")[0].strip()) == {"."} for name in names)
        assert names[:1] != ("",) or len(names) == 1, "no reading has a host in front"
