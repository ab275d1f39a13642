"""What the service does on a machine that gives it less than usual: a sentence, or no difference."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit import Service, config, credentials, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
NO_REDIS = {"url": "unix:///nonexistent/redis.sock"}
THEN_MAIN = "import sys; from service.__main__ import main; sys.exit(main())"
WITHOUT_TMP = f"import tempfile; tempfile.tempdir = '/nonexistent'; {THEN_MAIN}"
WITHOUT_ANY_FOLDER = f"from service.process import machine; machine.SHARED_MEMORY = '/nonexistent'; {WITHOUT_TMP}"
FEW_DESCRIPTORS = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d)); {THEN_MAIN}"
WITHOUT_UNIX_SOCKETS = f"""
import ctypes, errno, os, platform, struct, sys
# A filter of system calls as of seccomp(2): socket(AF_UNIX, …) and socketpair(AF_UNIX, …) are EAFNOSUPPORT.
open_one, open_two = {{"x86_64": (41, 53), "aarch64": (198, 199)}}.get(platform.machine(), (-1, -1))
code = [
    (0x20, 0, 0, 0),                              # the number of the call
    (0x15, 1, 0, open_one & 0xFFFFFFFF),
    (0x15, 0, 3, open_two & 0xFFFFFFFF),
    (0x20, 0, 0, 16),                             # its first argument, the lower half
    (0x15, 0, 1, 1),                              # AF_UNIX
    (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT),
    (0x06, 0, 0, 0x7FFF0000),                     # allowed
]
program = b"".join(struct.pack("HBBI", *one) for one in code)
text = ctypes.create_string_buffer(program, len(program))
header = struct.pack("HP", len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
if open_one < 0 or libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
    os._exit(77)
{THEN_MAIN}
"""


@pytest.fixture
def run(tmp_path: Path) -> "Callable[..., Service]":
    """Starts a service whose process begins with some code of the test's."""

    def run(code: str, **server: int) -> Service:
        class Begun(Service):
            program = ("-c", code)

        return Begun(tmp_path, config(server=server, redis=NO_REDIS))

    return run


def said(service: Service) -> str:
    """What a service said that ended by itself because of its machine: one line."""
    assert service.process.wait(60) == 2, service.log_text
    service.log.close()
    [line] = service.log_text.splitlines()
    return line


def test_several_workers_run_where_no_folder_for_temporary_files_can_be_written(run: Callable[..., Service]) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("/dev/shm cannot be written")
    service = run(WITHOUT_TMP, workers=2)
    try:
        assert service.wait_until_listening().get("/healthz").status == 200
    finally:
        assert service.end() == 0


def test_several_workers_without_any_folder_to_share_say_what_to_change(run: Callable[..., Service]) -> None:
    assert "mount a tmpfs at /nonexistent or /tmp, set TMPDIR, or set server.workers to 1" in said(
        run(WITHOUT_ANY_FOLDER, workers=2)
    )


def test_without_unix_sockets_it_says_what_to_allow(run: Callable[..., Service]) -> None:
    service = run(WITHOUT_UNIX_SOCKETS)
    if service.process.wait(60) == 77:
        service.log.close()
        pytest.skip("no filter of system calls can be set here")
    assert "allow AF_UNIX (RestrictAddressFamilies= of the unit" in said(service)


def test_in_the_c_locale_without_utf_8_mode_there_is_no_difference(tmp_path: Path) -> None:
    class Commented(Service):
        def configure(self, content: Mapping[str, Any]) -> None:
            super().configure(content)
            self.path.write_text(f"# Änderung → …\n{self.path.read_text()}", encoding="utf-8")

    folder = tmp_path / "d\u00eener"
    folder.mkdir()
    service = Commented(folder, config(server={"workers": 2}), PYTHONUTF8="0", LC_ALL="C")
    try:
        service.wait_until_ready()
        assert service.get("/auth/status", credentials("Zoë ☂")).data["userId"] == "Zoë ☂"
        assert service.get("/dashboard/login").status == 200
    finally:
        code = service.end()
    assert code == 0
    assert service.end() == 0
    assert "Traceback" not in service.log_text


def test_with_too_few_descriptors_it_does_not_start_and_says_so(run: Callable[..., Service]) -> None:
    assert "100 files may be open at a time, and 128 are needed" in said(run(FEW_DESCRIPTORS % (100, 100)))


def test_clients_for_which_there_is_no_descriptor_are_turned_away_counted_and_logged(
    run: Callable[..., Service],
) -> None:
    service = run(FEW_DESCRIPTORS % (200, 200)).wait_until_listening()
    try:
        with ExitStack() as stack:
            address = ("127.0.0.1", service.port)
            clients = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(150)]
            for client in clients:  # a connection on which nothing comes would be closed after ten seconds
                client.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            late = [stack.enter_context(socket.create_connection(address, timeout=30)).recv(4096) for _ in range(30)]
            assert {answer.partition(b"\r\n")[0] for answer in late} == {b"HTTP/1.1 503 Service Unavailable"}
            clients[0].sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            metrics = b"".join(iter(lambda: clients[0].recv(65_536), b"")).decode()
            assert re.search(r"^rollcall_turned_away_clients_total 30\.0$", metrics, re.M)
            wait_for(lambda: '"turned_away": ' in service.log_text)
        wait_for(lambda: service.get("/healthz").status == 200)
    finally:
        assert service.end() == 0
    assert "Traceback" not in service.log_text
