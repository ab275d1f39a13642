"""Addresses, paths and cursors from outside: refused in the one way that is promised, and never believed too much."""

import re
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from service.core.errors import UnreadableRequest
from service.core.routing.paths import JOINED, MAX_AMBIGUITIES, walk
from service.core.session_lists import Cursor
from service.web.api.client_address import ClientAddressRules, client_address
from tests.fuzz.bounds import TIMEOUT_S, tried

pytestmark = pytest.mark.timeout(TIMEOUT_S)

# --- the client's address -----------------------------------------------------------------------------

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PROXIES = st.sampled_from(("10.0.0.1", "10.255.0.9", "fd00::1", "::ffff:10.1.1.1"))
CLIENTS = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.ip_addresses(v=4).map(lambda one: ip_address(f"::ffff:{one}"))
).map(str)
MALFORMED = st.one_of(
    st.text(max_size=30).filter(lambda text: "," not in text and not is_address(without_port(text.strip()))),
    st.sampled_from(("1.2.3.4:", "1.2.3.4:800000", "1.2.3.4:http", "[2001:db8::1", "[2001:db8::1]:", "[1.2.3.4]:80")),
    st.sampled_from(("1.2.3", "01.2.3.4", "unknown", "_hidden", "fe80::1%eth0", "1.2.3.4%x")),
)
FRAGMENTS = st.one_of(
    CLIENTS,
    PROXIES,
    st.text(max_size=8),
    st.sampled_from(("for=", "For=", '"', "[", "]", ",", ";", " ", ":80", "=", "\\")),
)
LINES = st.lists(st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=9).map("".join)), max_size=4)
HEADERS = st.sampled_from(("x-forwarded-for", "forwarded"))


def without_port(text: str) -> str:
    """The address of `1.2.3.4:80`, `[2001:db8::1]` and `[2001:db8::1]:80`; everything else as it is."""
    found = re.fullmatch(r"(?:\[([^]]*:[^]]*)\]|([0-9.]+))(?::[0-9]{1,5})?", text, re.ASCII)
    return (found[1] or found[2]) if found else text


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def address(peer: str | None, lines: list[str], header: str = "x-forwarded-for", prefix: int = 64) -> str:
    headers = CIMultiDictProxy(CIMultiDict([(header, line) for line in lines]))
    return client_address(peer, headers, ClientAddressRules(TRUSTED, header, prefix))


def is_grouped(text: str, prefix: int) -> bool:
    """Whether it is an IPv4 address, or an IPv6 network of this prefix, spelt as everybody would."""
    if "/" not in text:
        return str(IPv4Address(text)) == text
    network = IPv6Network(text)
    return network.prefixlen == prefix and str(network) == text


@tried()
@given(st.one_of(PROXIES, CLIENTS), LINES, HEADERS, st.integers(32, 128))
def test_the_client_is_an_address_and_never_a_proxy_but_for_want_of_another(
    peer: str, lines: list[str], header: str, prefix: int
) -> None:
    own, found = address(peer, [], header, prefix), address(peer, lines, header, prefix)
    assert is_grouped(found, prefix)
    if found != own:
        first = ip_address(found.partition("/")[0])
        assert not any(first in network for network in TRUSTED)
        assert any(ip_address(one) in network for one in (own.partition("/")[0],) for network in TRUSTED)


@tried()
@given(st.one_of(st.none(), st.text(max_size=50)), LINES, HEADERS)
def test_a_peer_that_is_no_address_is_believed_nothing(peer: str | None, lines: list[str], header: str) -> None:
    assume(peer is None or not is_address(peer.partition("%")[0]))
    assert address(peer, lines, header) == "unknown"


@tried()
@given(st.lists(st.one_of(CLIENTS, PROXIES), min_size=1, max_size=6), st.data())
def test_both_headers_give_the_rightmost_address_that_is_no_proxy(chain: list[str], data: st.DataObject) -> None:
    rules = ClientAddressRules(TRUSTED)
    plain = [one.ipv4_mapped or one if one.version == 6 else one for one in map(ip_address, chain)]
    expected = next((str(one) for one in reversed(plain) if not rules.trusts(one)), "10.0.0.1")
    reported = address("10.0.0.1", [", ".join(chain)])
    assert reported == address(expected, [])
    more = st.sampled_from(("", ";proto=https", ';by="[fd00::1]:1"', ';host="a, for=6.6.6.6;x"'))
    elements = [
        f'for="[{one}]:80"' + data.draw(more) if ":" in one else f"{data.draw(st.sampled_from(('for', 'FOR')))}={one}"
        for one in chain
    ]
    assert address("10.0.0.1", [", ".join(elements)], "forwarded") == reported
    assert address("10.0.0.1", elements, "forwarded") == reported, "in a line each"


@tried()
@given(st.lists(CLIENTS, max_size=3), MALFORMED, st.lists(PROXIES, max_size=3))
def test_what_is_malformed_ends_what_is_believed(before: list[str], malformed: str, after: list[str]) -> None:
    assert address("10.0.0.1", [",".join([*before, malformed, *after])]) == "10.0.0.1"


# --- paths --------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    (
        "/",
        "/",
        ".",
        "..",
        "%2e",
        "%2F",
        "%25",
        "%00",
        "%ff",
        "%c3%a9",
        ";",
        "a",
        "b=1",
        "?",
        "#",
        "\\",
        " ",
        "é",
        "*",
        "%",
        "://",
        "http",
    )
)
TARGETS = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.lists(PARTS, max_size=14).map("".join),
    st.lists(PARTS, max_size=14).map(lambda parts: "/" + "".join(parts)),
)


def readings(target: str) -> set[tuple[str, ...]]:
    """All readings; none where it is refused."""
    start: tuple[str, ...] = ()
    try:
        return set(walk(target, start, lambda names, name: (*names, name)))
    except UnreadableRequest:
        return set()


@tried(3)
@given(TARGETS)
def test_a_path_is_refused_or_read_in_ways_that_hold_nothing_hidden(target: str) -> None:
    found = readings(target)
    assert len(found) <= MAX_AMBIGUITIES
    for names in found:
        for name in names:
            assert set(name.partition(";")[0].strip()) != {"."}
            assert not any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 or one == "\\" for one in name)
            assert name.encode().decode() == name, "no lone surrogates"
            assert name == JOINED or "/" not in name
        assert len(names) < 2 or names[0], "nothing that could be read as a host"


@tried(3)
@given(TARGETS)
def test_what_was_read_reads_the_same_again(target: str) -> None:
    for names in readings(target):
        plain = not any(mark in name for name in names for mark in ";?#") and not any(
            n.endswith((".", " ")) for n in names
        )
        if "" not in names and JOINED not in names and plain:
            assert readings("/" + "/".join(quote(name, safe="") for name in names)) == {names}


@tried()
@given(TARGETS, st.text(max_size=20))
def test_neither_query_nor_host_changes_how_a_path_is_read(target: str, query: str) -> None:
    assert readings(f"{target}?{query}") == readings(target)
    if target.startswith("/"):
        assert readings(f"https://host:1{target}") == readings(target)


# --- cursors ------------------------------------------------------------------------------------------


@tried()
@given(st.one_of(st.text(max_size=40), st.from_regex(r"\d{1,17}\.?.{0,9}", fullmatch=True)))
def test_a_cursor_is_what_was_given_out_or_none(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    assert 0 <= cursor.seen_ms < 10**15
    assert Cursor.parse(str(cursor)) == cursor
    assert text.endswith(f".{cursor.user}")
