"""The embedded Redis: private, persistent, gone with whoever started it; real processes."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis

from service.store.embedded import server
from service.store.embedded.server import EmbeddedError, find_server, running
from tests.kit import ROOT, needs, wait_for

pytestmark = [pytest.mark.real_redis, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _a_server() -> None:
    needs("a Redis server", found=find_server() is not None)


def connect(url: str) -> "redis.Redis":
    return redis.Redis(unix_socket_path=url.removeprefix("unix://"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_what_is_written_survives_and_the_child_does_not(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connect(url) as client:
        client.set("kept", "yes")
        pid = int(client.info("server")["process_id"])
    assert not alive(pid)
    with running(tmp_path / "var") as url, connect(url) as client:
        wait_for(lambda: client.ping())
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("set_by_the_operator", ["", "glibc.malloc.check=0"])
def test_the_child_keeps_freed_memory_at_hand_unless_the_operator_has_tuned_its_allocator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_the_operator: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if set_by_the_operator:
        monkeypatch.setenv("GLIBC_TUNABLES", set_by_the_operator)
    program = tmp_path / "a-server"  # a server writes its title over what /proc shows of its environment
    program.write_text(f'#!/bin/sh\nenv > {tmp_path}/environment\nexec {find_server()} "$@"\n')
    program.chmod(0o755)
    with running(tmp_path / "var", program):
        environment = (tmp_path / "environment").read_text().splitlines()
    assert f"GLIBC_TUNABLES={set_by_the_operator or 'glibc.malloc.tcache_count=4000'}" in environment


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connect(url) as client:
        client.set("kept", "yes")
        pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)

        def back() -> bool:
            try:
                return bool(client.info("server")["process_id"] != pid)
            except redis.RedisError:
                return False

        wait_for(back)
        assert client.get("kept") == b"yes"


def test_a_child_that_is_killed_again_and_again_is_started_again(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connect(url) as client:
        for _ in range(5):
            pid = wait_for(lambda: answering(client))
            os.kill(pid, signal.SIGKILL)
            wait_for(partial(another_answers, client, pid))


def another_answers(client: "redis.Redis", pid: int) -> bool:
    return answering(client) not in (0, pid)


def answering(client: "redis.Redis") -> int:
    """The process that answers; 0 where none does."""
    try:
        return int(client.info("server")["process_id"])
    except redis.RedisError:
        return 0


def guard_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_child_whose_guard_was_killed_ends_with_the_service_all_the_same(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connect(url) as client:
        pid = int(client.info("server")["process_id"])
        client.set("kept", "yes")
        os.kill(guard_of(pid), signal.SIGKILL)
    wait_for(lambda: not alive(pid))


HOLDER = "import sys, time; from service.store.embedded.server import running; from pathlib import Path\n" + (
    "with running(Path(sys.argv[1])) as url: print(url, flush=True); time.sleep(60)"
)


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Yield a process that runs an embedded server with a key `kept`, and the server's process id."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        with connect(holder.stdout.readline().strip()) as client:
            client.set("kept", "yes")
            pid = int(client.info("server")["process_id"])
        yield holder, pid


def test_after_kill_9_of_service_and_guard_the_next_service_ends_the_child_itself(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "var") as (holder, pid):
        os.kill(guard_of(pid), signal.SIGKILL)
        holder.kill()
    with running(tmp_path / "var") as url, connect(url) as client:
        assert not alive(pid)
        assert client.get("kept") == b"yes"


def test_a_second_service_on_one_folder_names_the_first(tmp_path: Path) -> None:
    with (
        running(tmp_path / "var"),
        pytest.raises(EmbeddedError, match=rf"process {os.getpid()}\) uses the embedded Redis"),
        running(tmp_path / "var"),
    ):
        pass


def test_after_kill_9_the_child_goes_and_the_next_service_waits_for_it(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "var") as (holder, pid):
        holder.kill()
    with running(tmp_path / "var") as url, connect(url) as client:
        assert not alive(pid)
        wait_for(lambda: client.ping())
        assert client.get("kept") == b"yes"


def test_a_long_path_gets_a_private_folder_for_its_socket_that_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y z" * 30) / "var"
    with running(folder) as url, connect(url) as client:
        path = Path(url.removeprefix("unix://"))
        assert path.parent.name.startswith("rollcall-")
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert client.config_get("dir")["dir"] == str(folder)
    assert not path.parent.exists()


FOLDERS = Path(__file__).parent / "folders"
"""What each server left behind: a key written before the append-only file was rewritten, one after, and an index."""


@pytest.mark.parametrize("server", ["of PATH", "of the wheel"])
@pytest.mark.parametrize("written_by", ["redis-6.2", "redis-7.0"])
def test_what_an_older_server_wrote_is_taken_over_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_by: str, server: str
) -> None:
    if server == "of the wheel":
        monkeypatch.setenv("PATH", "")
    shutil.copytree(FOLDERS / written_by, tmp_path / "var")
    with running(tmp_path / "var") as url, connect(url) as client:
        assert (client.get("kept-before-rewrite"), client.get("kept-after-rewrite")) == (b"yes", b"yes")
        assert client.zscore("rc:z", "a") == 1


def test_the_server_that_wrote_a_folder_is_the_one_that_runs_on_it(tmp_path: Path) -> None:
    shutil.copytree(FOLDERS / "valkey-9.1", tmp_path / "var")
    with running(tmp_path / "var") as url, connect(url) as client:
        assert client.info("server")["server_name"] == "valkey"
        assert client.get("kept-after-rewrite") == b"yes"


def test_a_folder_that_no_server_here_can_read_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(FOLDERS / "redis-8.2", tmp_path / "var")
    base = tmp_path / "var" / "appendonlydir" / "appendonly.aof.2.base.rdb"
    base.write_bytes(b"REDIS9999" + base.read_bytes()[9:])
    before = {path: path.read_bytes() for path in (tmp_path / "var").rglob("*") if path.is_file()}
    with pytest.raises(EmbeddedError, match=r"by a newer Redis than .*, and only "), running(tmp_path / "var"):
        pass
    assert {path: path.read_bytes() for path in (tmp_path / "var").rglob("*") if path.is_file()} == before


def test_an_error_of_a_server_that_does_not_start_has_its_log_and_no_advice_to_cut_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    with running(folder):
        pass
    for written in (*folder.glob("appendonlydir/*.aof"), *folder.glob("appendonly.aof")):
        written.write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(EmbeddedError, match=r"(?s)does not start.*\n.*Bad file format") as raised, running(folder):
        pass
    assert "rollcall restore FILE" in str(raised.value)
    assert "check-aof" not in str(raised.value)


TO_ALL = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
"""What process managers, terminals and log rotation send to all processes of a service."""


@pytest.mark.parametrize("program", ["of PATH", "of the wheel"])
def test_signals_to_all_processes_of_the_service_end_neither_the_child_nor_its_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    if program == "of the wheel":
        monkeypatch.setenv("PATH", "")
    with running(tmp_path / "var") as url, connect(url) as client:
        pid = int(client.info("server")["process_id"])
        guard = guard_of(pid)
        for one in TO_ALL:
            os.kill(pid, one)
            os.kill(guard, one)
        client.set("kept", "yes")
        until = time.monotonic() + 1  # a server looks ten times a second whether it is to end
        while time.monotonic() < until:
            assert client.info("server")["process_id"] == pid
        assert guard_of(pid) == guard
    assert not alive(pid)
    assert not alive(guard)
    with running(tmp_path / "var") as url, connect(url) as client:
        assert client.get("kept") == b"yes"


def test_a_child_whose_socket_was_removed_is_ended_with_the_service_all_the_same(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connect(url) as client:
        client.set("kept", "yes")
        pid = int(client.info("server")["process_id"])
        Path(url.removeprefix("unix://")).unlink()
    assert not alive(pid)
    with running(tmp_path / "var") as url, connect(url) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("place", ["var", "var/redis", "var/redis/appendonlydir", "var/redis/service.lock"])
def test_a_folder_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, place: str) -> None:
    wrong = tmp_path / place
    wrong.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith(".lock"):
        wrong.mkdir()
    else:
        wrong.write_text("a file in place of a folder")
    said = f"cannot use {wrong}.*: (Not a|Is a|File exists).*set redis.url"
    with pytest.raises(EmbeddedError, match=said), running(tmp_path / "var" / "redis"):
        pass


@pytest.mark.parametrize("place", ["", "appendonlydir", "appendonlydir/appendonly.aof.1.incr.aof", "redis.log"])
def test_a_folder_that_this_user_cannot_write_is_named_with_the_reason(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "var"
    with running(folder):
        pass
    wrong = folder / place
    mode = wrong.stat().st_mode
    wrong.chmod(0o500 if wrong.is_dir() else 0o400)
    tried = (
        "import sys; from service.store.embedded.server import EmbeddedError, running; from pathlib import Path\n"
        + ("try:\n with running(Path(sys.argv[1])): pass\nexcept EmbeddedError as error: print(error)")
    )
    command = [sys.executable, "-c", tried, str(folder)]
    if os.geteuid() == 0:  # root may write everything, unless it gives that right up
        needs("setpriv", found=shutil.which("setpriv") is not None)
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    wrong.chmod(mode)
    assert re.fullmatch(f"the embedded Redis cannot use {wrong}.*: Permission denied; .*\n", run.stdout), run


def test_an_old_server_that_stays_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WAIT_FOR_OLD_S", 0.1)
    monkeypatch.setattr(server, "ASK_OLD_AFTER_S", 9)
    with running(tmp_path):
        (tmp_path / "service.lock").rename(tmp_path / "service.lock.away")
        with pytest.raises(EmbeddedError, match="earlier service still runs"), running(tmp_path):
            pass


def test_without_a_server_the_caller_gets_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert find_server() is None
    with pytest.raises(EmbeddedError, match="no Redis server on this machine"), running(tmp_path / "var"):
        pass
    assert not (tmp_path / "var").exists()


def test_a_held_lock_names_the_processes_that_hold_it(tmp_path: Path) -> None:
    lock = tmp_path / "service.lock"
    with lock.open("w") as held:
        holder = subprocess.Popen(["sleep", "60"], stdout=held)
    try:
        assert server._holders(lock) == [str(holder.pid)]
    finally:
        holder.kill()
        holder.wait()
