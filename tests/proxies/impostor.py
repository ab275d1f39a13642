"""What may answer at Rollcall's address in its place: nothing, half of an answer, or something else."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.kit import free_port

ADMITTED = ("content-type: application/json", "x-request-id: req-1", "x-auth-admitted: 1", "x-auth-tenant: demo")
"""Fields of an admission of Rollcall's."""


def admission(user: str = "anna") -> bytes:
    """The head of an admission, but for the length of its body and the empty line."""
    expires = "2100-01-01T00:00:00.000Z"
    fields = (*ADMITTED, f"x-auth-user: {user}", "x-auth-status: logged_in", f"x-auth-expires: {expires}")
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, ""]).encode()


SILENCE_S = 40.0
"""Longer than any of the proxies waits."""

Behaviour = Callable[[socket.socket, bytes], None]
"""What is done on a connection once a whole request head was read. The connection is closed afterwards."""


def says(answer: bytes) -> Behaviour:
    """Answer with these bytes, and close."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer)

    return behave


def stalls(answer: bytes = b"") -> Behaviour:
    """Answer with these bytes, and say nothing more until the proxy hangs up, or asks on as if they were all."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer)
        connection.settimeout(SILENCE_S)
        connection.recv(65536)

    return behave


def resets(connection: socket.socket, _: bytes) -> None:
    """End the connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def responds(status: str, *fields: str, body: bytes = b"other") -> Behaviour:
    """Answer with a whole response, and close."""

    def behave(connection: socket.socket, head: bytes) -> None:
        reported = [f"HTTP/1.1 {status}", *fields, f"content-length: {len(body)}", "connection: close"]
        bodiless = head.startswith(b"HEAD ") or status[:3] in ("204", "304")
        connection.sendall("\r\n".join([*reported, "", ""]).encode() + (b"" if bodiless else body))

    return behave


@dataclass
class _Listening:
    listener: socket.socket
    connections: set[socket.socket]


class Impostor:
    """A server at Rollcall's address. It admits every request, and misbehaves in the ways that a test selects.

    Proxies send the original target in different fields, so a behaviour belongs to a mark: a word in the target.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.behaviours: dict[str, Behaviour] = {}
        """Mark → what is done with questions about a target that holds it."""
        self.asked: list[bytes] = []
        """The heads of all questions."""
        self.user = "anna"
        """Who is admitted."""
        self.listen()

    def listen(self) -> None:
        """Take connections."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._now = _Listening(listener, set())
        threading.Thread(target=self._accept, args=(self._now,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections, and close those there are."""
        self._now.listener.shutdown(socket.SHUT_RDWR)
        self._now.listener.close()
        for connection in list(self._now.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    close = refuse

    def _accept(self, now: _Listening) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = now.listener.accept()
                now.connections.add(connection)
                threading.Thread(target=self._converse, args=(now, connection), daemon=True).start()

    def _converse(self, now: _Listening, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while head := _read_head(connection):
                self.asked.append(head)
                mark = next((mark for mark in self.behaviours if re.search(rf"\b{mark}\b".encode(), head)), None)
                if mark is not None:
                    self.behaviours[mark](connection, head)
                    break
                connection.sendall(admission(self.user) + b"content-length: 0\r\n\r\n")
        now.connections.discard(connection)


def _read_head(connection: socket.socket) -> bytes:
    """A request's head, of a client that sends no body and waits for each answer; b"" at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (more := connection.recv(65536)):
            return b""
        head += more
    return head
