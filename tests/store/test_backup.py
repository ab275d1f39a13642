"""Backups of the embedded data: of one moment, restorable, never in place of anything that is better; real servers."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from service.store.embedded.backup import back_up, restore
from service.store.embedded.server import EmbeddedError, find_server, running
from service.store.embedded.servers import written_in
from tests.kit import needs, wait_for

pytestmark = [pytest.mark.real_redis, pytest.mark.slow]

FOLDERS = Path(__file__).parent / "folders"
SLOW_US = 1000
"""A rewrite and a snapshot wait so long for each key, so that what is to happen meanwhile does."""


@pytest.fixture(autouse=True, params=["of PATH", "of the wheel"])
def _a_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "of the wheel":
        monkeypatch.setenv("PATH", "")
    needs("a Redis server", found=find_server() is not None)


@contextmanager
def connected(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://"), socket_timeout=30) as client:
        yield client


def size(url: str) -> list[str]:
    """What a server holds, as a restore reports it."""
    with connected(url) as client:
        return [f"{client.dbsize()} keys"]


def keys(folder: Path) -> set[int]:
    """The numbers of the keys in `folder`."""
    with running(folder) as url, connected(url) as client:
        wait_for(client.ping)
        return {int(key) for key in client.keys("*")}


@contextmanager
def writing(url: str) -> Iterator[Callable[[], int]]:
    """Write the keys 0, 1, 2 … in turn as long as the context is open; yields how many are acknowledged."""
    stop, done = threading.Event(), 0

    def write() -> None:
        nonlocal done
        with connected(url) as client:
            while not stop.is_set():
                client.set(str(done), "x" * 100)
                done += 1
                time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: done
    finally:
        stop.set()
        thread.join()


def test_a_backup_during_writes_has_all_that_was_acknowledged_before_and_is_of_one_moment(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, writing(url) as written:
        wait_for(lambda: written() > 300)
        before = written()
        assert back_up(tmp_path / "var", tmp_path / "backup").startswith(f"{tmp_path / 'backup'} is written: ")
        after = written()
    restore(tmp_path / "new", tmp_path / "backup", size)
    restored = keys(tmp_path / "new")
    assert restored == set(range(len(restored))), "none is missing in between"
    assert before <= len(restored) <= after + 1


def test_a_backup_across_rewrites_of_the_log_can_be_restored(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connected(url) as client, writing(url) as written:
        wait_for(lambda: written() > 300)
        client.config_set("rdb-key-save-delay", SLOW_US)
        client.bgrewriteaof()
        wait_for(lambda: client.info("persistence")["aof_rewrite_in_progress"])
        before = written()
        backup = threading.Thread(target=back_up, args=(tmp_path / "var", tmp_path / "backup"))
        backup.start()
        wait_for(lambda: client.info("persistence")["rdb_bgsave_in_progress"] or not backup.is_alive())
        client.bgrewriteaof()  # the server begins it when the snapshot is done
        backup.join()
        wait_for(lambda: client.info("persistence")["aof_rewrites"] >= 1)
    restore(tmp_path / "new", tmp_path / "backup", size)
    restored = keys(tmp_path / "new")
    assert restored == set(range(len(restored)))
    assert before <= len(restored)
    assert keys(tmp_path / "var") >= restored


def test_a_backup_is_for_its_user_alone_and_replaces_an_older_one(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_text("an older one")
    with running(tmp_path / "var") as url, connected(url) as client:
        client.set("1", "x")
        back_up(tmp_path / "var", file)
    assert file.stat().st_mode & 0o777 == 0o600
    back_up(tmp_path / "var", file)  # without a service
    assert restore(tmp_path / "new", file, size) == ["1 keys", f"{file} is restored"]
    assert keys(tmp_path / "new") == {1}
    left = {path.name for path in (tmp_path / "var").iterdir()}
    assert left == {"appendonlydir", "backup.lock", "redis.log", "redis.path", "server.lock", "service.lock"}


def test_a_restore_while_the_server_runs_replaces_its_data_and_keeps_them_aside(tmp_path: Path) -> None:
    var, file = tmp_path / "var", tmp_path / "backup"
    with running(var) as url, connected(url) as client:
        client.set("1", "x")
        back_up(var, file)
        client.delete("1")
        client.set("2", "x")
        before = client.info("server")["process_id"]
        assert restore(var, file, size) == [
            "1 keys",
            f"{file} is restored",
            f"what was there before is in {var / 'before-restore'}",
        ]
        assert client.keys("*") == [b"1"]
        process = int(client.info("server")["process_id"])
        assert process != before
        client.set("3", "x")
        os.kill(process, signal.SIGKILL)  # the guard goes on guarding, and the data are appended to
        wait_for(lambda: _answers(client))
        assert set(client.keys("*")) == {b"1", b"3"}
    assert keys(var) == {1, 3}
    shutil.copytree(var / "before-restore", tmp_path / "old")
    assert keys(tmp_path / "old") == {2}


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_second_restore_keeps_what_the_first_restored(tmp_path: Path) -> None:
    var, file = tmp_path / "var", tmp_path / "backup"
    with running(var) as url, connected(url) as client:
        client.set("1", "x")
        back_up(var, file)
        for _ in range(3):  # each ends a server that has lived for a moment: the guard does not take that for failures
            client.set("2", "x")
            restore(var, file, size)
            assert client.keys("*") == [b"1"]
    shutil.copytree(var / "before-restore", tmp_path / "old")
    assert keys(tmp_path / "old") == {1, 2}


def test_a_damaged_backup_replaces_nothing(tmp_path: Path) -> None:
    var, file = tmp_path / "var", tmp_path / "backup"
    with running(var) as url, connected(url) as client:
        client.set("1", os.urandom(10_000))
        back_up(var, file)
        whole = file.read_bytes()
        process = client.info("server")["process_id"]
        for damaged in (whole[:-2000], whole[:5000] + b"\0" * 100 + whole[5100:], whole[:9]):
            file.write_bytes(damaged)
            with pytest.raises(EmbeddedError, match="cannot be restored, and nothing was replaced") as raised:
                restore(var, file, size)
            assert "check-aof" not in str(raised.value)
        assert client.info("server")["process_id"] == process
        assert client.keys("*") == [b"1"]
    with pytest.raises(EmbeddedError, match="nothing was replaced"):
        restore(var, file, size)
    assert not {path.name for path in var.iterdir()} & {"restored", "before-restore"}
    assert keys(var) == {1}


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no backup"),
        (b"*1\r\n$4\r\nPING\r\n", "is no backup"),
        (b"REDIS9999 of a day to come", "was written by a newer Redis than is known here, and only "),
        (b"VALKEY999 of a day to come", "was written by a newer Valkey than is known here, and only "),
    ],
)
def test_what_is_no_backup_or_cannot_be_read_here_is_refused_by_name(
    tmp_path: Path, content: bytes | None, reported: str
) -> None:
    file = tmp_path / "backup"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EmbeddedError, match=f"{file} {reported}"):
        restore(tmp_path / "var", file, size)
    assert written_in(tmp_path / "var") is None


def test_a_backup_that_the_running_server_cannot_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path / "var") as url, connected(url) as client:
        valkey = client.info("server").get("server_name") == "valkey"
        other = FOLDERS / ("redis-8.2" if valkey else "valkey-9.1")
        with pytest.raises(EmbeddedError, match="is running: stop the service, restore, and start it again"):
            restore(tmp_path / "var", other / "appendonlydir" / "appendonly.aof.2.base.rdb", size)


@pytest.mark.parametrize("name", ["redis-6.2/appendonly.aof", "redis-7.0/appendonlydir/appendonly.aof.2.base.rdb"])
def test_a_snapshot_of_an_older_server_can_be_restored(tmp_path: Path, name: str) -> None:
    restore(tmp_path / "var", FOLDERS / name, size)
    with running(tmp_path / "var") as url, connected(url) as client:
        assert client.get("kept-before-rewrite") == b"yes"


def test_a_backup_that_cannot_be_made_says_why_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    var, file = tmp_path / "var", tmp_path / "backup"
    with pytest.raises(EmbeddedError, match=f"there are no embedded data in {var}"):
        back_up(var, file)
    with running(var) as url, connected(url) as client:
        client.set("1", "x")
        with pytest.raises(EmbeddedError, match="away/backup cannot be written: No such file"):
            back_up(var, tmp_path / "away" / "backup")
        (var / "dump.rdb").mkdir()
        with pytest.raises(EmbeddedError, match="cannot save its data: BGSAVE failed"):
            back_up(var, file)
        (var / "dump.rdb").rmdir()
        owner = var.stat().st_uid
        monkeypatch.setattr("os.geteuid", lambda: owner + 1)
        with pytest.raises(EmbeddedError, match=f"{var} belongs to .*: run this command as that user"):
            back_up(var, file)
    assert not file.exists()


def test_a_restore_that_was_killed_before_the_server_was_is_completed_at_the_next_start(tmp_path: Path) -> None:
    with running(tmp_path / "new") as url, connected(url) as client:
        client.set("1", "x")
    with running(tmp_path / "var") as url, connected(url) as client:
        client.set("2", "x")
    (tmp_path / "new" / "appendonlydir").rename(tmp_path / "var" / "restored")
    assert keys(tmp_path / "var") == {1}
    shutil.copytree(tmp_path / "var" / "before-restore", tmp_path / "old")
    assert keys(tmp_path / "old") == {2}
