"""What systemd and the service say to each other: sockets that it hands over, and notifications of the state.

The protocols are those of sd_listen_fds(3) and sd_notify(3). Other managers speak them, too.
"""

import os
import socket
import time
from collections.abc import Sequence

import structlog

log = structlog.get_logger()

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: the first descriptor that is handed over."""


class Notifier:
    """Sends the state of the service to `NOTIFY_SOCKET`; without that variable it does nothing.

    It takes the variable out of the environment: no child process may speak for the service.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """The service has started, or a reload has ended."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        # systemd compares the time with that of its SIGHUP, by the clock that does not go back.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a manager that does not read delays nothing
                sender.sendto(state.encode(), address)
        except OSError as error:
            log.warning("the service manager was not notified", state=state.split("\n")[0], reason=str(error))


def handed_over() -> Sequence[socket.socket] | None:
    """Return the sockets that were opened for this process (`LISTEN_PID`, `LISTEN_FDS`); None: there are none.

    It takes the variables out of the environment: a child process has none of the sockets.

    Raises:
        ValueError: one of them does not accept connections.
    """
    pid, number = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not number.isdecimal() or number == "0":
        return None
    listeners = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(number)):
        listener = _listener(descriptor)
        if listener is None:
            raise ValueError(f"descriptor {descriptor} of LISTEN_FDS is not a listening stream socket")
        listener.set_inheritable(False)
        listeners.append(listener)
    return listeners


def _listener(descriptor: int) -> socket.socket | None:
    try:
        given = socket.socket(fileno=descriptor)
    except OSError:  # it is not open, or no socket
        return None
    if given.type == socket.SOCK_STREAM and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return given
    given.detach()
    return None
