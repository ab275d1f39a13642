"""The client's address: what is believed, from whom, and what is not."""

from ipaddress import ip_network

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from service.web.api.client_address import ClientAddressRules, client_address

PROXY = "10.0.0.1"
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def address(
    peer: str | None, *lines: str, header: str = "x-forwarded-for", trusted: bool = True, prefix: int = 64
) -> str:
    headers = CIMultiDict([(header, line) for line in lines])
    rules = ClientAddressRules(TRUSTED if trusted else (), header, prefix)
    return client_address(peer, CIMultiDictProxy(headers), rules)


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
        (PROXY, ["1.2.3.4:80"], PROXY),
        (PROXY, ["[2001:db8::1]"], PROXY),
        (PROXY, ["01.2.3.4"], PROXY),
        (PROXY, ["1.2.3.4%x"], PROXY),
        (PROXY, ["fe80::1%eth0"], PROXY),
        (PROXY, ["1.2.3"], PROXY),
        (PROXY, ["0x01020304"], PROXY),
        (PROXY, ["10.0.0.9"], PROXY),
        ("8.8.8.8", ["1.2.3.4"], "8.8.8.8"),
        ("2001:db8::1", ["1.2.3.4"], "2001:db8::/64"),
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


@pytest.mark.parametrize(
    ("prefix", "expected"), [(128, "2001:db8::1/128"), (56, "2001:db8::/56"), (48, "2001:db8::/48")]
)
def test_ipv6_is_grouped_by_the_configured_prefix(prefix: int, expected: str) -> None:
    assert address("2001:db8::1", prefix=prefix) == expected
