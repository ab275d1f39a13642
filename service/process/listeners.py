"""The sockets that the service listens on: handed over by a service manager, or opened as `server.host` says."""

import errno
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.config.cross_checks import ONLY_LOOPBACK, Mistake, has_shipped_secrets, is_loopback
from service.config.loading import ConfigurationError, load
from service.config.settings import Server, Settings
from service.process import systemd
from service.web.server.http_server import BACKLOG

log = structlog.get_logger()

_Address = tuple[socket.AddressFamily, str]
ANY_IPV4: _Address = (socket.AF_INET, "0.0.0.0")  # noqa: S104  # nosec B104  # what `server.host` may say
ANY_IPV6: _Address = (socket.AF_INET6, "::")
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The machine does not have the address, or its family."""
ADVICE = {
    errno.EADDRINUSE: "another program, perhaps `make run`, listens there: stop it, or set another server.port",
    errno.EACCES: "a port below 1024 needs the capability CAP_NET_BIND_SERVICE: give it, or set another server.port",
    errno.EMFILE: "raise the limit of open files: LimitNOFILE= of the unit, or ulimit -n",
}


class CannotListen(Exception):
    """The address is in use or does not belong to this machine, or a socket that was handed over is unfit."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets."""

    sockets: Sequence[socket.socket]
    are_handed_over: bool = False
    """Another program has opened them, and keeps them open when the service ends."""

    @property
    def reachable(self) -> Sequence[str]:
        """Where those listen that other machines can reach."""
        addresses = [one for one in self.sockets if one.family != socket.AF_UNIX]
        return [name_of(one) for one in addresses if not is_loopback(str(one.getsockname()[0]))]


def load_for(path: Path, reachable: Sequence[str]) -> Settings:
    """Read the configuration for sockets that are open already.

    `load` checks `server.host`. What is listened on may differ from it: the sockets were handed over, or the file has
    another host now, which holds after a restart.

    Args:
        path: the file.
        reachable: where sockets listen that other machines can reach.

    Raises:
        ConfigurationError: it cannot be used, or its secrets are public and a socket is open to others.
    """
    settings = load(path)
    if reachable and has_shipped_secrets(settings):
        what = f"the service listens on {', '.join(reachable)}: {ONLY_LOOPBACK}"
        raise ConfigurationError(str(path), [Mistake("file", what, "")])
    return settings


@contextmanager
def listeners_of(server: Server) -> Iterator[Listeners]:
    """Open the sockets to listen on, for as long as the context is open.

    Raises:
        CannotListen: says why, and what to change.
    """
    try:
        given = systemd.handed_over()
    except ValueError as error:
        raise CannotListen(f"cannot listen: {error}; see the socket unit") from None
    with ExitStack() as stack:
        if given is not None:
            names = [name_of(stack.enter_context(one)) for one in given]
            log.info("sockets were handed over: server.host and server.port are not used", sockets=names)
            yield Listeners(given, are_handed_over=True)
        else:
            yield Listeners(_opened(server.hosts, server.port, stack))


def name_of(listener: socket.socket) -> str:
    """Return where a socket listens: an address and a port, or the path of a unix socket."""
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def _opened(hosts: Sequence[str], port: int, stack: ExitStack) -> list[socket.socket]:
    wanted: dict[_Address, str] = {}
    for host in hosts:
        for address in _addresses_of(host, port):
            wanted.setdefault(address, host)
    opened: list[socket.socket] = []
    refused: CannotListen | None = None
    for address, host in wanted.items():
        if _is_covered(address, wanted):
            continue
        try:
            opened.append(stack.enter_context(_bound(address, port, may_be_dual=ANY_IPV4 not in wanted)))
        except OSError as error:
            refused = _cannot_listen(host, port, error)
            # A name such as localhost may have an IPv6 address although this machine has no IPv6.
            if error.errno not in NOT_HERE or host == address[1]:
                raise refused from None
    if refused is not None and not opened:
        raise refused
    return opened


def _addresses_of(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    return [(family, str(address[0])) for family, *_, address in found]


def _is_covered(address: _Address, wanted: Collection[_Address]) -> bool:
    """Return whether another socket takes its connections, so that it cannot be bound beside that one."""
    if address in (ANY_IPV4, ANY_IPV6):
        return False
    return ANY_IPV6 in wanted or (address[0] is socket.AF_INET and ANY_IPV4 in wanted)


def _bound(address: _Address, port: int, *, may_be_dual: bool) -> socket.socket:
    """Return a listening socket; the one for `::` takes IPv4, too, unless that has a socket of its own."""
    family, host = address
    is_dual = may_be_dual and address == ANY_IPV6
    try:
        dual = is_dual and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        if not is_dual or error.errno not in NOT_HERE:
            raise
    log.warning("this machine has no IPv6: listening on IPv4 alone")
    return socket.create_server((ANY_IPV4[1], port), backlog=BACKLOG)


def _cannot_listen(host: str, port: int, error: OSError) -> CannotListen:
    number = error.errno or 0
    why = os.strerror(number) if number > 0 else str(error.strerror or error)  # a name's number is negative
    advice = ADVICE.get(number, "see server.host and server.port")
    return CannotListen(f"cannot listen on {host}:{port}: {why}; {advice}")
