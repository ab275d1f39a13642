"""The protocols of sd_notify(3) and sd_listen_fds(3)."""

import fcntl
import os
import socket
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.process import systemd
from service.process.systemd import Notifier, handed_over


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_each_state_is_one_message_to_the_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"\0rollcall-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ, "no child speaks for the service"
        before_us = time.monotonic_ns() // 1000
        for state in (notifier.ready, notifier.reloading, notifier.stopping):
            state()
        ready, reloading, stopping = (manager.recv(4096).decode() for _ in range(3))
    assert (ready, stopping) == ("READY=1", "STOPPING=1")
    first, _, second = reloading.partition("\n")
    assert first == "RELOADING=1"
    assert before_us <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as logs:
        Notifier().ready()
    assert logs == []


def test_a_manager_that_is_gone_is_logged_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with capture_logs() as logs:
        Notifier().ready()
    assert [line["state"] for line in logs] == ["READY=1"]


def hand_over(monkeypatch: pytest.MonkeyPatch, *descriptors: int) -> int:
    """Hand copies of `descriptors` over to this process; returns the number of the first."""
    first = fcntl.fcntl(descriptors[0], fcntl.F_DUPFD, 900)
    for number, descriptor in enumerate(descriptors[1:], 1):
        assert fcntl.fcntl(descriptor, fcntl.F_DUPFD, first + number) == first + number
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", first)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(descriptors)))
    monkeypatch.setenv("LISTEN_FDNAMES", "a:b")
    return first


def test_sockets_are_taken_and_the_variables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        hand_over(monkeypatch, one.fileno(), other.fileno())
        taken = handed_over()
        assert taken is not None
        assert [listener.getsockname() for listener in taken] == [one.getsockname(), other.getsockname()]
        assert not any(listener.get_inheritable() for listener in taken)
        assert not any(name.startswith("LISTEN_") for name in os.environ)
        for listener in taken:
            listener.close()


@pytest.mark.parametrize(("pid", "number"), [("1", "1"), ("", "1"), (None, "0"), (None, ""), (None, "x")])
def test_what_is_not_for_this_process_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, number: str
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid is None else pid)
    monkeypatch.setenv("LISTEN_FDS", number)
    assert handed_over() is None


@pytest.mark.parametrize("kind", ["closed", "a file", "datagrams", "not listening"])
def test_what_accepts_no_connections_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as silent,
    ):
        given = {"datagrams": datagrams, "not listening": silent}.get(kind, file)
        descriptor = hand_over(monkeypatch, given.fileno())
        if kind == "closed":
            os.close(descriptor)
        with pytest.raises(ValueError, match=f"descriptor {descriptor} of LISTEN_FDS is not a listening"):
            handed_over()
        if kind != "closed":
            os.close(descriptor)
