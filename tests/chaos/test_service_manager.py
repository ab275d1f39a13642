"""Under a service manager such as systemd: notifications and sockets, alike for one process and for several workers."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.kit import ROOT, Service, config, credentials, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
NO_REDIS = {"url": "unix:///nonexistent/redis.sock"}
BOTH = pytest.mark.parametrize("workers", [1, 2])

ACTIVATED = """
import os, sys
os.dup2(int(os.environ.pop("HANDED_OVER")), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "service", *sys.argv[1:]])
"""


class Activated(Service):
    """A service that gets its socket from whoever starts it."""

    def __init__(self, folder: Path, listener: socket.socket, **server: int) -> None:
        self.listener = listener
        super().__init__(folder, config(server=server, redis=NO_REDIS))

    def start(self) -> None:
        self.log = (self.folder / "service.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, "--config", str(self.path)],
            cwd=ROOT,
            env={**self.environment, "HANDED_OVER": str(self.listener.fileno())},
            stdout=self.log,
            stderr=self.log,
            pass_fds=[self.listener.fileno()],
        )


def asked(client: socket.socket) -> bytes:
    """The status line of the answer to one more request."""
    client.settimeout(30)
    client.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = b""
    while piece := client.recv(65_536):
        answer += piece
    return answer.partition(b"\r\n")[0]


@BOTH
def test_a_socket_that_is_handed_over_is_served_and_no_client_is_refused_over_a_restart(
    tmp_path: Path, workers: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        service = Activated(tmp_path, listener, workers=workers)
        try:
            service.wait_until_listening()
            with socket.create_connection(address) as client:
                assert asked(client) == b"HTTP/1.1 200 OK"
            assert service.end() == 0
            with socket.create_connection(address) as client:  # it waits in the queue of the socket
                service.start()
                assert asked(client) == b"HTTP/1.1 200 OK"
        finally:
            assert service.end() == 0


def test_a_unix_socket_that_is_handed_over_is_there_after_the_service(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        service = Activated(tmp_path, listener, workers=2)
        try:
            service.wait_until_listening()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert asked(client) == b"HTTP/1.1 200 OK"
        finally:
            assert service.end() == 0
        assert path.exists()


@BOTH
def test_public_secrets_are_refused_at_start_and_on_a_reload_where_others_reach_a_socket(
    tmp_path: Path, workers: int
) -> None:
    own, public = config(server={"workers": workers}, redis=NO_REDIS), "demo-operator-token"
    tokens = [{"name": "demo", "token": public, "role": "operator", "tenants": ["*"]}]
    with socket.create_server(("0.0.0.0", 0)) as listener:
        service = Activated(tmp_path, listener, workers=workers)
        service.port = listener.getsockname()[1]
        try:
            service.wait_until_listening()
            service.configure({**own, "admin": {"tokens": tokens}})
            service.process.send_signal(signal.SIGHUP)
            wait_for(partial(reported, service, "only loopback is served", workers))
            assert service.get("/admin/v1", {"authorization": f"Bearer {public}"}).code == "UNAUTHORIZED"
        finally:
            assert service.end() == 0
        service.start()
        assert service.process.wait(60) == 2
        service.end()
        assert f"cannot listen on 0.0.0.0:{service.port}: with the secrets of the shipped" in service.log_text


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def reported(service: Service, event: str, times: int) -> bool:
    return service.log_text.count(event) >= times


@BOTH
def test_the_manager_hears_of_the_start_each_reload_and_the_end(
    start: Start, manager: socket.socket, workers: int
) -> None:
    content = config(server={"workers": workers}, redis=NO_REDIS)
    service = start(content, NOTIFY_SOCKET=manager.getsockname())
    assert manager.recv(4096) == b"READY=1"
    assert service.get("/healthz").status == 200, "ready means that requests are answered"
    for changes in ({}, {"sessions": {"retention": -1}}):
        service.configure({**content, **changes})
        asked_us = time.monotonic_ns() // 1000
        service.process.send_signal(signal.SIGHUP)
        first, _, second = manager.recv(4096).partition(b"\n")
        assert first == b"RELOADING=1"
        assert int(second.removeprefix(b"MONOTONIC_USEC=")) >= asked_us
        assert manager.recv(4096) == b"READY=1"
        event = "not reloaded" if changes else "configuration reloaded"
        wait_for(partial(reported, service, event, workers))  # the log is written a moment later
    service.process.send_signal(signal.SIGTERM)
    assert manager.recv(4096) == b"STOPPING=1"
    assert service.process.wait(30) == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


BODY = b'{"strategy": "soft"}'


def request_head(length: int) -> bytes:
    fields = {**credentials(), "host": "a", "content-type": "application/json", "content-length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /auth/terminate HTTP/1.1\r\n{lines}\r\n".encode()


@BOTH
def test_a_request_whose_body_still_comes_at_sigterm_is_answered_and_one_that_never_comes_delays_nothing(
    start: Start, workers: int
) -> None:
    service = start(config(server={"workers": workers})).wait_until_ready()
    address = ("127.0.0.1", service.port)
    with socket.create_connection(address, timeout=30) as client, socket.create_connection(address) as silent:
        for one in (client, silent):
            one.sendall(request_head(len(BODY)) + BODY[:5])
        assert [service.get("/healthz").status for _ in range(10)] == [200] * 10, "it has been read by then"
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: '"event": "draining"' in service.log_text)
        time.sleep(1)  # in which it would refuse
        client.sendall(BODY[5:])
        assert client.recv(65_536).startswith(b"HTTP/1.1 201 ")
        assert service.process.wait(30) == 0


@BOTH
def test_for_the_seconds_of_the_drain_it_is_not_ready_and_takes_requests(start: Start, workers: int) -> None:
    service = start(config(server={"workers": workers, "drain": 600})).wait_until_ready()
    try:
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: all(service.get("/readyz").status == 503 for _ in range(10)))
        assert [service.get("/auth/status", credentials()).status for _ in range(20)] == [200] * 20
        assert service.process.poll() is None
    finally:
        service.end(signal.SIGKILL)
