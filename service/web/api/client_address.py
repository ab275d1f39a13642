"""The client's address: the peer's, or what a trusted proxy says of it.

Only the one header that the configuration names is read, only from a trusted peer, and from the right: what
stands left of the last address that is not trusted was written by whoever that is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from multidict import CIMultiDictProxy, istr

Address = IPv4Address | IPv6Address

_X_FORWARDED_FOR = istr("x-forwarded-for")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rf'(?:{_WORD}|"(?:[^"\\]|\\.)*")'
_PAIR = rf"{_WORD}={_VALUE}"
_ELEMENT = re.compile(rf"\s*({_PAIR}(?:\s*;\s*{_PAIR})*)\s*(?:,|$)")
_PARAMETER = re.compile(rf"({_WORD})=({_VALUE})")
_NODE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, eq=False)
class ClientAddressRules:
    """Whom to believe, which header, and how IPv6 is grouped."""

    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    header: str = _X_FORWARDED_FOR
    ipv6_prefix: int = 64

    def trusts(self, address: Address) -> bool:
        """Whether `address` is a proxy of ours."""
        return any(address in network for network in self.trusted)


def client_address(peer: str | None, headers: CIMultiDictProxy[str], rules: ClientAddressRules) -> str:
    """The client's address as limits count it: an IPv4 address, or an IPv6 network of the configured prefix."""
    trusted, own = _peer(peer or "", rules)
    if not trusted or rules.header not in headers:
        return own
    read = _forwarded if rules.header == "forwarded" else _x_forwarded_for
    for node in read(headers.getall(rules.header, [])):
        address = None if "%" in node else _parse(node)
        if address is None:
            break
        if not rules.trusts(address):
            return _subject(node, rules.ipv6_prefix)
    return own


def is_counted(text: str) -> bool:
    """Whether limits count an address that is spelt so: an IPv4 address, an IPv6 one or a network of such."""
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


def is_proxy(peer: str | None, rules: ClientAddressRules) -> bool:
    """Whether the peer is a proxy of ours."""
    return _peer(peer or "", rules)[0]


@lru_cache(maxsize=16_384)
def _peer(peer: str, rules: ClientAddressRules) -> tuple[bool, str]:
    """Whether the peer is a proxy of ours, and its own address as limits count it."""
    own = peer.partition("%")[0]  # the kernel tells the zone of a link-local peer
    at = _parse(own)
    return at is not None and rules.trusts(at), _subject(own, rules.ipv6_prefix)


@lru_cache(maxsize=16_384)
def _subject(text: str, ipv6_prefix: int) -> str:
    address = _parse(text)
    if address is None:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), ipv6_prefix), strict=False))


@lru_cache(maxsize=16_384)
def _parse(text: str) -> Address | None:
    """An address without port or zone; an IPv4-mapped one is the IPv4 one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _x_forwarded_for(lines: Sequence[str]) -> Iterator[str]:
    """The addresses, last first."""
    for line in reversed(lines):
        yield from (node.strip() for node in reversed(line.split(",")))


def _forwarded(lines: Sequence[str]) -> Iterator[str]:
    """The `for` nodes (RFC 7239, section 4), last first; an empty one for what is malformed."""
    for line in reversed(lines):
        elements, at = [], 0
        while at < len(line):
            found = _ELEMENT.match(line, at)
            if found is None:
                elements = [""]
                break
            elements.append(found[1])
            at = found.end()
        yield from (_node(element) for element in reversed(elements))


def _node(element: str) -> str:
    """The one `for` of an element, without its port. Values are stepped over whole: quotes may hold anything."""
    values = [value for name, value in _PARAMETER.findall(element) if name.lower() == "for"]
    node = _NODE.fullmatch(values[0].strip('"')) if len(values) == 1 else None
    return (node["six"] or node["four"]) if node else ""
