"""The client's address: what is believed, from whom, and what is not."""

from ipaddress import ip_network

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from service.policy_factory import make_policy
from service.web.api import client_address as client_address_module
from service.web.api.client_address import (
    MAX_ADDRESS_CHARS,
    AddressProblem,
    ClientAddressRules,
    client_address,
    client_forwarded_for,
    reads_x_forwarded_for,
)
from tests.kit import settings

PROXY = "10.0.0.1"
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def address(
    peer: str | None, *lines: str, header: str = "x-forwarded-for", trusted: bool = True, prefix: int = 64
) -> str:
    headers = CIMultiDict([(header, line) for line in lines])
    rules = ClientAddressRules(TRUSTED if trusted else (), header, prefix)
    found = client_address(peer, CIMultiDictProxy(headers), rules)
    if len(lines) == 1 and reads_x_forwarded_for(peer, rules):  # then the hot path may read the field by itself
        own = client_address(peer, CIMultiDictProxy(CIMultiDict()), rules)
        assert (client_forwarded_for(peer, lines[0], rules) or own) == found
    return found


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        (PROXY, ["1.2.3.4"], "1.2.3.4"),
        (PROXY, ["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
        (PROXY, ["1.2.3.4, 10.0.0.7, 10.0.0.8"], "1.2.3.4"),
        (PROXY, ["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
        (PROXY, ["1.2.3.4", "10.0.0.7", "10.0.0.8"], "1.2.3.4"),
        (PROXY, ["9.9.9.9, 8.8.8.8", "7.7.7.7, 1.2.3.4", "10.0.0.7"], "1.2.3.4"),
        (PROXY, ["garbage, 1.2.3.4"], "1.2.3.4"),
        (PROXY, ["::ffff:1.2.3.4"], "1.2.3.4"),
        (PROXY, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("fd00::1", ["1.2.3.4"], "1.2.3.4"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (PROXY, [], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, ["1.2.3.4, "], PROXY),
        (PROXY, ["1.2.3.4, garbage"], PROXY),
        (PROXY, ["203.0.113.1:17085"], "203.0.113.1"),
        (PROXY, ["9.9.9.9:1, 203.0.113.1:17085, 10.0.0.7:443"], "203.0.113.1"),
        (PROXY, ["[2001:db8::1]:443"], "2001:db8::/64"),
        (PROXY, ["[2001:db8::1]"], "2001:db8::/64"),
        (PROXY, ["[::ffff:1.2.3.4]:80"], "1.2.3.4"),
        (PROXY, ["1.2.3.4:"], PROXY),
        (PROXY, ["1.2.3.4:_obf"], PROXY),
        (PROXY, ["1.2.3.4:123456"], PROXY),
        (PROXY, ["[1.2.3.4]:80"], PROXY),
        (PROXY, ["[2001:db8::1"], PROXY),
        (PROXY, ["64:ff9b::102:304"], "1.2.3.4"),
        (PROXY, ["[64:ff9b::1.2.3.4]:443"], "1.2.3.4"),
        (PROXY, ["64:ff9b:1::102:304"], "64:ff9b:1::/64"),
        (PROXY, ["1.2.3.4, 64:ff9b::10.0.0.7"], "1.2.3.4"),
        (PROXY, ['", 1.2.3.4'], "1.2.3.4"),
        (PROXY, ["01.2.3.4"], PROXY),
        (PROXY, ["1.2.3.4%x"], PROXY),
        (PROXY, ["fe80::1%eth0"], PROXY),
        (PROXY, ["1.2.3"], PROXY),
        (PROXY, ["0x01020304"], PROXY),
        (PROXY, ["10.0.0.9"], PROXY),
        ("8.8.8.8", ["1.2.3.4"], "8.8.8.8"),
        ("2001:db8::1", ["1.2.3.4"], "2001:db8::/64"),
        ("64:ff9b::808:808", [], "8.8.8.8"),
        ("64:ff9b::10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("fe80::1%eth0", [], "fe80::/64"),
        (None, ["1.2.3.4"], "unknown"),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_and_from_trusted_peers(
    peer: str | None, lines: list[str], expected: str
) -> None:
    assert address(peer, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["for=1.2.3.4"], "1.2.3.4"),
        (["For=1.2.3.4;proto=https;by=10.0.0.1"], "1.2.3.4"),
        (["proto=https; for=1.2.3.4"], "1.2.3.4"),
        (['for="1.2.3.4:5678"'], "1.2.3.4"),
        (['for="[2001:db8::1]:80"'], "2001:db8::/64"),
        (["for=9.9.9.9, for=1.2.3.4"], "1.2.3.4"),
        (["for=1.2.3.4, for=10.0.0.2"], "1.2.3.4"),
        (['for="a, b";x=y', "for=1.2.3.4"], "1.2.3.4"),
        (['host="x;for=6.6.6.6";for=1.2.3.4'], "1.2.3.4"),
        (['host="x, for=6.6.6.6, y";for=1.2.3.4'], "1.2.3.4"),
        (['for="192.0.2.1:_obf"'], "192.0.2.1"),
        (['for="[2001:db8::1]:_a.b-c"'], "2001:db8::/64"),
        (['for="[64:ff9b::102:304]"'], "1.2.3.4"),
        (['for="9.9.9.9, for=1.2.3.4'], "1.2.3.4"),
        (["garbage\\, for=1.2.3.4"], "1.2.3.4"),
        (['x="\\", for=1.2.3.4'], "1.2.3.4"),
        (['for=6.6.6.6;host="a\\", for=9.9.9.9, \\\\", for=1.2.3.4;host="b\\", for=7.7.7.7"'], "1.2.3.4"),
        (['for=9.9.9.9;x="', "for=1.2.3.4"], "1.2.3.4"),
        (['for="', "for=1.2.3.4, for=10.0.0.2"], "1.2.3.4"),
        (['for="192.0.2.1:_"'], PROXY),
        (['for="[192.0.2.1]"'], PROXY),
        (["for=6.6.6.6;for=1.2.3.4"], PROXY),
        (["for=unknown"], PROXY),
        (["for=_hidden"], PROXY),
        (["by=1.2.3.4"], PROXY),
        (['for="1.2.3.4'], PROXY),
        (["for=1.2.3.4 for=5.6.7.8"], PROXY),
        (["for=[2001:db8::1]"], PROXY),
        (["xfor=1.2.3.4"], PROXY),
        (["for="], PROXY),
        ([""], PROXY),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(lines: list[str], expected: str) -> None:
    assert address(PROXY, *lines, header="forwarded") == expected


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert address(PROXY, "1.2.3.4", trusted=False) == PROXY


def test_only_the_configured_header_is_read() -> None:
    headers = CIMultiDictProxy(CIMultiDict({"x-forwarded-for": "1.2.3.4", "forwarded": "for=5.6.7.8"}))
    assert client_address(PROXY, headers, ClientAddressRules(TRUSTED, "forwarded")) == "5.6.7.8"


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "64:ff9b::a00:0/104"])
def test_a_trusted_network_may_be_written_as_the_ipv6_network_that_represents_it(network: str) -> None:
    policy = make_policy(settings(server={"trusted_proxies": [network]}))
    headers = CIMultiDictProxy(CIMultiDict({"x-forwarded-for": "1.2.3.4"}))
    assert client_address("10.9.9.9", headers, policy.client_address) == "1.2.3.4"
    assert client_address("11.0.0.1", headers, policy.client_address) == "11.0.0.1"


@pytest.mark.parametrize(
    ("prefix", "expected"), [(128, "2001:db8::1/128"), (56, "2001:db8::/56"), (48, "2001:db8::/48")]
)
def test_ipv6_is_grouped_by_the_configured_prefix(prefix: int, expected: str) -> None:
    assert address("2001:db8::1", prefix=prefix) == expected


XFF, FORWARDED = "x-forwarded-for", "forwarded"


@pytest.mark.parametrize(
    ("peer", "fields", "expected"),
    [
        ("10.0.0.1", {}, AddressProblem.ABSENT),
        ("10.0.0.1", {FORWARDED: "for=1.2.3.4"}, AddressProblem.OTHER_HEADER),
        ("10.0.0.1", {XFF: "garbage"}, AddressProblem.MALFORMED),
        ("10.0.0.1", {XFF: ""}, AddressProblem.MALFORMED),
        ("10.0.0.1", {XFF: "garbage, 1.2.3.4"}, None),
        ("10.0.0.1", {XFF: "1.2.3.4", FORWARDED: "garbage"}, None),
        ("10.0.0.1", {XFF: "10.0.0.2"}, None),
        ("192.168.0.1", {XFF: "1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("192.168.0.1", {FORWARDED: "for=1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("127.0.0.1", {XFF: "1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("100.64.0.1", {XFF: "1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("::1", {XFF: "1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("fe80::1%eth0", {XFF: "1.2.3.4"}, AddressProblem.UNTRUSTED_PEER),
        ("192.168.0.1", {}, None),
        ("8.8.8.8", {XFF: "1.2.3.4"}, None),
        (None, {XFF: "1.2.3.4"}, None),
    ],
)
def test_a_forwarded_address_that_is_not_used_is_reported_with_the_peer(
    peer: str | None, fields: dict[str, str], expected: AddressProblem | None
) -> None:
    found: list[tuple[AddressProblem, str]] = []
    rules = ClientAddressRules((ip_network("10.0.0.0/8"),))
    own = client_address(peer, CIMultiDictProxy(CIMultiDict(fields)), rules, lambda *one: found.append(one))
    assert found == ([] if expected is None else [(expected, own)])


@pytest.mark.parametrize(("header", "trusted"), [("forwarded", True), ("x-forwarded-for", False)])
def test_x_forwarded_for_decides_only_where_it_is_the_field_of_a_trusted_proxy(header: str, trusted: bool) -> None:
    assert not reads_x_forwarded_for(PROXY, ClientAddressRules(TRUSTED if trusted else (), header))
    assert not reads_x_forwarded_for(None, ClientAddressRules(TRUSTED, header))
    assert not reads_x_forwarded_for("192.0.2.1", ClientAddressRules(TRUSTED, header))


def test_what_is_too_long_for_an_address_is_malformed_and_not_cached() -> None:
    rules = ClientAddressRules(TRUSTED)
    longest = "0000:0000:0000:0000:0000:ffff:255.255.255.254"
    assert len(longest) == MAX_ADDRESS_CHARS
    assert client_forwarded_for(PROXY, longest, rules) == "255.255.255.254"
    assert client_forwarded_for(PROXY, f"[{longest}]:443", rules) == "255.255.255.254"
    cached = client_address_module._node_client.cache_info().currsize
    assert client_forwarded_for(PROXY, f"0{longest}", rules) is None
    assert client_forwarded_for(PROXY, "1" * 10_000, rules) is None
    assert client_address_module._node_client.cache_info().currsize == cached
