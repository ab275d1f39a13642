"""The client's address: the peer's, or what a trusted proxy says of it.

Only the one header that the configuration names is read, only from a trusted peer, and from the right: what
stands left of the last address that is not trusted was written by whoever that is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from multidict import CIMultiDictProxy

Address = IPv4Address | IPv6Address

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'{_WORD}=(?:{_WORD}|"(?:[^"\\]|\\.)*")'
_ELEMENT = re.compile(rf"\s*({_PAIR}(?:\s*;\s*{_PAIR})*)\s*(?:,|$)")
_FOR = re.compile(rf'(?:^|;)\s*for=("(?:[^"\\]|\\.)*"|{_WORD})', re.IGNORECASE)
_NODE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class ClientAddressRules:
    """Whom to believe, which header, and how IPv6 is grouped."""

    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    header: str = "x-forwarded-for"
    ipv6_prefix: int = 64

    def trusts(self, address: Address) -> bool:
        """Whether `address` is a proxy of ours."""
        return any(address in network for network in self.trusted)


def client_address(peer: str | None, headers: CIMultiDictProxy[str], rules: ClientAddressRules) -> str:
    """The client's address as limits count it: an IPv4 address, or an IPv6 network of the configured prefix."""
    if not rules.trusted:
        return _subject(peer or "", rules.ipv6_prefix)
    at = _parse(peer or "")
    if at is None or not rules.trusts(at):
        return _subject(peer or "", rules.ipv6_prefix)
    read = _forwarded if rules.header == "forwarded" else _x_forwarded_for
    for node in read(headers.getall(rules.header, [])):
        address = _parse(node)
        if address is None:
            break
        if not rules.trusts(address):
            return _subject(node, rules.ipv6_prefix)
    return _subject(peer or "", rules.ipv6_prefix)


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
    """An address without a port; an IPv4-mapped one is the IPv4 one, a zone is dropped."""
    try:
        address = ip_address(text.partition("%")[0])
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
    found = _FOR.search(element)
    node = _NODE.fullmatch(found[1].strip('"')) if found else None
    return (node["six"] or node["four"]) if node else ""
