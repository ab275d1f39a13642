"""Targets that are read in several ways, and those that no rule can be held to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import UnreadableRequest
from service.core.paths import readings

ONE_WAY = {
    "/": (),
    "/a": ("a",),
    "/a/": ("a",),
    "/a/b?x=/../y": ("a", "b"),
    "/a?": ("a",),
    "/a//b": ("a", "b"),
    "/a///": ("a",),
    "/./a/.": ("a",),
    "/%61/b": ("a", "b"),
    "/a%20b": ("a b",),
    "/caf%C3%A9": ("café",),
    "/%2e/a": ("a",),
    "/.well-known/x": (".well-known", "x"),
    "/...": ("...",),
    "/a/..b": ("a", "..b"),
    "/what%3f": ("what?",),
    "/100%25": ("100%",),
    "http://host/a": ("a",),
    "HTTPS://user:secret@host:1/a/b": ("a", "b"),
    "http://host": (),
    "http://host?a": (),
    "/a/http://b": ("a", "http:", "b"),
}

SEVERAL_WAYS = {
    "/public/../api": {("api",), ("public", "..", "api")},
    "/public/%2e%2e/api": {("api",), ("public", "..", "api")},
    "/public/.%2E/api": {("api",), ("public", "..", "api")},
    "/public%2fapi": {("public", "api"), ("public/api",)},
    "/public/..;/api": {("public", "..;", "api"), ("api",), ("public", "..", "api")},
    "/public;x=1/api": {("public;x=1", "api"), ("public", "api")},
    "//public/api": {("public", "api"), ("api",)},
    "/public/..%2fapi": {("api",), ("public", "..", "api"), ("public", "../api")},
}

NO_WAY = [
    "",
    "a",
    "*",
    "host:443",
    "/a\\b",
    "/a%5cb",
    "/%00",
    "/a%0d%0ab",
    "/a%7f",
    "/%c2%85",
    "/a b",
    "/a\tb",
    "/a#b",
    "/%",
    "/%2",
    "/%zz",
    "/%u002e",
    "/..",
    "/../a",
    "/a/../../b",
    "/%2e%2e/a",
    "/a/..%2f..%2fb",
    "/%252e%252e/a",
    "/a%252fb",
    "/%2525",
    "/%c0%ae%c0%ae/a",
    "/%e0%80%ae/a",
    "/%c0%af",
    "/%ff",
    "/%ed%a0%80",
    "/\udcff",
    "/%61" * 3000,
]


@pytest.mark.parametrize("target", ONE_WAY)
def test_a_target_that_all_read_alike_has_one_reading(target: str) -> None:
    assert readings(target) == (ONE_WAY[target],)


@pytest.mark.parametrize("target", SEVERAL_WAYS)
def test_a_target_that_servers_read_differently_has_every_reading(target: str) -> None:
    assert set(readings(target)) == SEVERAL_WAYS[target]


@pytest.mark.parametrize("target", NO_WAY)
def test_a_target_that_cannot_be_trusted_is_refused(target: str) -> None:
    with pytest.raises(UnreadableRequest):
        readings(target)


def test_the_normalised_reading_comes_first() -> None:
    assert readings("/public/%2e%2e/api")[0] == ("api",)


@given(st.text(alphabet="/.%2eEfF5cC;a\\?#: é\udcff", max_size=40).map("/".__add__))
def test_whatever_is_sent_is_read_or_refused_and_never_has_an_empty_name(target: str) -> None:
    try:
        ways = readings(target)
    except UnreadableRequest:
        return
    assert 1 <= len(ways) <= 16
    assert all(name not in ("", ".") for way in ways for name in way)
    assert ".." not in ways[0]
