"""The client's address: the peer's, or the one that a trusted proxy reports.

Only the one header that the configuration names is read, and only from a trusted peer. It is read from the right and no
further than the first address that is not trusted, because everything left of that was written by whoever has it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from multidict import MultiMapping, istr

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_X_FORWARDED_FOR, _FORWARDED = istr("x-forwarded-for"), istr("forwarded")
_MAPPED, _NAT64 = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")
"""IPv4 addresses within IPv6: RFC 4291 (section 2.5.5.2), and the well-known prefix of RFC 6052 (section 2.1)."""
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rf'(?:{_WORD}|"(?:[^"\\]|\\.)*")'
_PAIR = rf"{_WORD}={_VALUE}"
_ELEMENT = re.compile(rf"{_PAIR}(?:\s*;\s*{_PAIR})*")
_PARAMETER = re.compile(rf"({_WORD})=({_VALUE})")
_UP_TO_A_COMMA_BACKWARDS = re.compile(r'(?:[^",]|"(?:[^"]|"(?=\\(?:\\\\)*(?!\\)))*")*')
"""The last element of a line that is written backwards. An odd number of backslashes after a quote escapes it."""
_PORT = r":[0-9]{1,5}"
_OBSCURED_PORT = r":_[A-Za-z0-9._-]+"
"""RFC 7239, section 6.3."""
_NODE = r"(?:\[(?P<six>[0-9A-Fa-f]*:[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))"
_FORWARDED_NODE = re.compile(rf"{_NODE}(?:{_PORT}|{_OBSCURED_PORT})?")
_WITH_PORT = re.compile(rf"{_NODE}(?:{_PORT})?")
MAX_ADDRESS_CHARS = 45
"""The length of an IPv6 address in full, with an IPv4 address at its end. Longer text is no address; none is cached."""
_TRUSTED = ""


class AddressProblem(StrEnum):
    """Why a forwarded address was not used, although it was probably meant to be."""

    UNTRUSTED_PEER = "untrusted_peer"
    """A peer on a private or loopback address sends a forwarding header and is not in `server.trusted_proxies`."""
    ABSENT = "absent"
    """A trusted proxy sends neither header."""
    OTHER_HEADER = "other_header"
    """A trusted proxy sends only the header that `server.client_address` does not name."""
    MALFORMED = "malformed"
    """The header has something other than an address in an element that has to be read."""


Report = Callable[[AddressProblem, str], None]
"""Takes note of a problem, and of the peer that caused it."""


@dataclass(frozen=True, slots=True, eq=False)
class ClientAddressRules:
    """Which proxies are trusted, which header is read, and how IPv6 addresses are grouped."""

    trusted: tuple[Network, ...] = ()
    header: str = _X_FORWARDED_FOR
    ipv6_prefix: int = 64

    def trusts(self, address: Address) -> bool:
        """Return whether `address` is a trusted proxy."""
        return any(address in network for network in self.trusted)


def _ignore(problem: AddressProblem, peer: str) -> None:
    """Ignore a problem."""


def client_address(
    peer: str | None, headers: MultiMapping[str], rules: ClientAddressRules, report: Report = _ignore
) -> str:
    """Return the client's address as limits count it: an IPv4 address, or an IPv6 network of the configured prefix.

    Args:
        peer: the address of the other end of the connection; None where it is not known.
        headers: the request's.
        rules: which of them are trusted.
        report: called where a forwarded address was probably meant to be used and is not.
    """
    trusted, own, is_local = _peer(peer or "", rules)
    if not trusted:
        if is_local and (_X_FORWARDED_FOR in headers or _FORWARDED in headers):
            report(AddressProblem.UNTRUSTED_PEER, own)
        return own
    if rules.header not in headers:
        other = _FORWARDED if rules.header == _X_FORWARDED_FOR else _X_FORWARDED_FOR
        report(AddressProblem.OTHER_HEADER if other in headers else AddressProblem.ABSENT, own)
        return own
    read = _forwarded if rules.header == _FORWARDED else _x_forwarded_for
    client = _first_untrusted(read(headers.getall(rules.header, [])), rules)
    if client is None:
        report(AddressProblem.MALFORMED, own)
    return client or own


def reads_x_forwarded_for(peer: str | None, rules: ClientAddressRules) -> bool:
    """Return whether `X-Forwarded-For` decides the client's address in requests of this peer."""
    return rules.header == _X_FORWARDED_FOR and is_proxy(peer, rules)


def client_forwarded_for(peer: str | None, line: str, rules: ClientAddressRules) -> str | None:
    """Return what `client_address` returns for a trusted peer's request with this one `X-Forwarded-For`.

    Returns:
        None: the field is malformed, and `client_address` has to report that.
    """
    client = _first_untrusted(_x_forwarded_for((line,)), rules)
    return _peer(peer or "", rules)[1] if client == _TRUSTED else client


def _first_untrusted(nodes: Iterable[str], rules: ClientAddressRules) -> str | None:
    """Return the first address that is not a trusted proxy's; empty: all are; None: one before it is malformed."""
    for node in nodes:
        client = _node_client(node, rules) if len(node) <= MAX_ADDRESS_CHARS else None
        if client != _TRUSTED:
            return client
    return _TRUSTED


def is_counted(text: str) -> bool:
    """Return whether limits count an address that is spelt so: an IPv4 address, an IPv6 one or a network of such."""
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


def is_proxy(peer: str | None, rules: ClientAddressRules) -> bool:
    """Return whether the peer is a trusted proxy."""
    return _peer(peer or "", rules)[0]


@lru_cache(maxsize=16_384)
def _peer(peer: str, rules: ClientAddressRules) -> tuple[bool, str, bool]:
    """Return whether the peer is a trusted proxy, its address as limits count it, and whether that is not public."""
    at = _parse(peer.partition("%")[0])  # the kernel adds the zone of a link-local peer
    if at is None:
        return False, "unknown", False
    return rules.trusts(at), _counted(at, rules.ipv6_prefix), not at.is_global


@lru_cache(maxsize=16_384)
def _node_client(node: str, rules: ClientAddressRules) -> str | None:
    """Return a forwarded address as limits count it; empty: it is a trusted proxy's; None: it is malformed."""
    address = None if "%" in node else _parse(node)
    if address is None:
        return None
    return _TRUSTED if rules.trusts(address) else _counted(address, rules.ipv6_prefix)


def _counted(address: Address, ipv6_prefix: int) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), ipv6_prefix), strict=False))


def _parse(text: str) -> Address | None:
    """Return an address without port or zone; the IPv4 address if an IPv6 one represents it."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _NAT64):
        return IPv4Address(int(address) & _32_BITS)
    return address


def ipv4_of(network: Network) -> Network:
    """Return the IPv4 network that an IPv6 one represents, or else `network` itself.

    Addresses of such an IPv6 network are compared as IPv4 addresses, so nothing would ever match it.
    """
    if isinstance(network, IPv6Network) and any(network.subnet_of(one) for one in (_MAPPED, _NAT64)):
        return IPv4Network((int(network.network_address) & _32_BITS, network.prefixlen - 96))
    return network


_32_BITS = 0xFFFF_FFFF


def _x_forwarded_for(lines: Sequence[str]) -> Iterator[str]:
    """Yield the addresses, last first, without their ports (Azure's gateways and others append them)."""
    for line in reversed(lines):
        for element in reversed(line.split(",")):
            node = element.strip()
            found = _WITH_PORT.fullmatch(node) if ":" in node else None
            yield (found["six"] or found["four"]) if found else node


def _forwarded(lines: Sequence[str]) -> Iterator[str]:
    """Yield the `for` nodes (RFC 7239, section 4), last first; an empty one for an element that is malformed.

    A line is read backwards, so that a quote that somebody left open further left closes nothing here.
    """
    for line in reversed(lines):
        backwards, at = line[::-1], 0
        while True:
            found = _UP_TO_A_COMMA_BACKWARDS.match(backwards, at)
            end = found.end() if found else at
            if end < len(backwards) and backwards[end] != ",":
                yield ""
                break
            yield _node(backwards[at:end][::-1].strip())
            if end == len(backwards):
                break
            at = end + 1


def _node(element: str) -> str:
    """Return the one `for` of an element, without its port. Quoted values are skipped: they may contain anything."""
    if not _ELEMENT.fullmatch(element):
        return ""
    values = [value for name, value in _PARAMETER.findall(element) if name.lower() == "for"]
    node = _FORWARDED_NODE.fullmatch(values[0].strip('"')) if len(values) == 1 else None
    return (node["six"] or node["four"]) if node else ""
