"""Warnings about forwarded addresses that were not used: without them, all clients share one counter in silence."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from service.web.api.client_address import AddressProblem

log = structlog.get_logger()

WARN_EVERY_S = 60.0
MAX_PEERS = 100
"""Peers that are named in a minute, for each problem."""
OTHERS = "others"
"""The name under which all further peers are counted."""

_SENTENCES = {
    AddressProblem.UNTRUSTED_PEER: "a peer that is not one of server.trusted_proxies sends a forwarded address; all "
    "its requests count for its own address",
    AddressProblem.ABSENT: "a trusted proxy sends no forwarded address; its requests count for its own address",
    AddressProblem.OTHER_HEADER: "a trusted proxy sends the forwarded address in the header that server.client_address "
    "does not name; its requests count for its own address",
    AddressProblem.MALFORMED: "a trusted proxy sends a forwarded address that cannot be read; the request counts for "
    "the proxy's own address",
}


@dataclass(slots=True)
class _Peer:
    requests: int = 0
    """Since the last line."""
    warned_s: float | None = None


class AddressWarnings:
    """Counts problems by peer, and logs each peer within a second, then at most once a minute, with its count."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._peers: dict[AddressProblem, dict[str, _Peer]] = {problem: {} for problem in AddressProblem}

    def report(self, problem: AddressProblem, peer: str) -> None:
        """Count one request from `peer`."""
        peers = self._peers[problem]
        found = peers.get(peer)
        if found is None:
            name = peer if len(peers) < MAX_PEERS else OTHERS
            found = peers.setdefault(name, _Peer())
        found.requests += 1

    def flush(self) -> None:
        """Write a line for each problem and peer that none was written for in the last minute."""
        for problem, peers in self._peers.items():
            now_s = self._clock_s()
            for name, peer in list(peers.items()):
                if peer.warned_s is not None and now_s - peer.warned_s < WARN_EVERY_S:
                    continue
                if not peer.requests:
                    del peers[name]
                    continue
                log.warning(_SENTENCES[problem], problem=problem.value, peer=name, requests=peer.requests)
                peer.requests, peer.warned_s = 0, now_s
