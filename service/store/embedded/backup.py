"""Backups of the embedded data, while the service runs and while it does not.

A backup is a snapshot that the server itself writes (BGSAVE): one file, of one moment, with a checksum. Copying the
append-only files does not make a backup, because the server replaces them meanwhile.

A restore prepares an append-only folder whose base file is the backup, and lets a server load it as a test. At the next
start of the server this folder replaces the one in use. A running server is ended, and its watchdog starts it again.
"""

import fcntl
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from service.store.embedded.server import EmbeddedError, locked, running, url_of_running
from service.store.embedded.servers import NoServer, Server, examined, format_of, reader_of, writer_of, written_in
from service.store.embedded.watchdog import BEFORE_RESTORE, DATA, RESTORED, put_restored_in_place

SNAPSHOT = "dump.rdb"
"""The file that BGSAVE writes."""
BASE = f"{DATA[1]}.1.base.rdb"
ANSWER_S = 30.0
"""Seconds that the server may take for an answer: it is silent while it forks."""
RESTART_S = 60.0
"""Seconds in which the watchdog starts the server again. Loading the data may take longer."""
LOOK_EVERY_S = 0.02


def back_up(folder: Path, file: Path) -> str:
    """Write a backup of the data in `folder` to `file`; it replaces an older one once it is complete.

    Returns:
        What was done, in a sentence.

    Raises:
        EmbeddedError: there are no data, the server cannot save them, or `file` cannot be written.
    """
    try:
        if written_in(folder) is None:
            raise EmbeddedError(f"there are no embedded data in {folder}")
        with _only_one(folder), _server_on(folder) as client:
            _save(client)
            snapshot = folder / SNAPSHOT
            try:
                _copy(snapshot, file)
                size = snapshot.stat().st_size
            finally:
                snapshot.unlink(missing_ok=True)
    except OSError as error:
        raise EmbeddedError(f"{error.filename or folder} cannot be used: {error.strerror or error}") from None
    except RedisError as error:
        raise EmbeddedError(f"the embedded Redis cannot save its data: {error}") from None
    return f"{file} is written: {size} bytes"


def restore(folder: Path, file: Path, counted: Callable[[str], list[str]]) -> list[str]:
    """Replace the data in `folder` by a backup. What it replaces is kept in its folder `before-restore`.

    Args:
        folder: of the embedded data; a service may run on it.
        file: a backup.
        counted: is called with the URL of a server that has loaded the backup; describes what the backup holds.

    Returns:
        What was done, in sentences.

    Raises:
        EmbeddedError: `file` is no backup, no server here can read it, or it is damaged. Nothing is replaced then.
    """
    try:
        format_name = format_of(file)
    except OSError as error:
        raise EmbeddedError(f"{file} cannot be read: {error.strerror or error}") from None
    if not format_name:
        raise EmbeddedError(f"{file} is no backup: its first bytes are not those of one")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(folder):
            url = url_of_running(folder)
            program = _reader(format_name, file, url)
            if url is None:
                with locked(folder):
                    held = _prepare(folder, file, program, counted)
                    put_restored_in_place(folder)
            else:
                held = _prepare(folder, file, program, counted)
                _restart(folder, url)
    except OSError as error:
        raise EmbeddedError(f"{error.filename or folder} cannot be used: {error.strerror or error}") from None
    except RedisError as error:
        raise EmbeddedError(f"the embedded Redis does not answer as expected: {error}") from None
    kept = folder / BEFORE_RESTORE
    return [*held, f"{file} is restored", *([f"what was there before is in {kept}"] if kept.exists() else [])]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait for another backup or restore of the same data to end."""
    refuse_another_user(folder)
    with (folder / "backup.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def refuse_another_user(folder: Path) -> None:
    """Refuse a folder of another user, whose service could not use what a server of this user writes there.

    Raises:
        EmbeddedError: names the user who is to run the command.
    """
    if folder.exists() and (owner := folder.stat().st_uid) != os.geteuid():
        raise EmbeddedError(f"{folder} belongs to {_user(owner)}: run this command as that user")


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"user {number}"


@contextmanager
def _server_on(folder: Path) -> Iterator[Any]:
    """Yield a client of the server on `folder`, once it has loaded its data; start one unless a service has one."""
    if (url := url_of_running(folder)) is not None:
        with _client(url) as client:
            _wait_until_loaded(client)
            yield client
    else:
        with running(folder) as url, _client(url) as client:
            _wait_until_loaded(client)
            yield client


@contextmanager
def _client(url: str) -> Iterator[Any]:
    path, retry = url.removeprefix("unix://"), Retry(NoBackoff(), 0)
    with Redis(unix_socket_path=path, socket_timeout=ANSWER_S, retry=retry, protocol=2) as client:
        yield client


def _wait_until_loaded(client: Any) -> None:
    while True:
        with suppress(BusyLoadingError):
            client.ping()
            return
        time.sleep(LOOK_EVERY_S)


def _save(client: Any) -> None:
    """Have the server write a snapshot of this moment."""
    while True:
        try:
            client.execute_command("BGSAVE")
            break
        except ResponseError as error:  # another child of the server's is at work: a rewrite, or a snapshot
            if "in progress" not in str(error) and "child process" not in str(error):
                raise
            time.sleep(LOOK_EVERY_S)
    while (about := client.info("persistence"))["rdb_bgsave_in_progress"]:
        time.sleep(LOOK_EVERY_S)
    if about["rdb_last_bgsave_status"] != "ok":
        raise ResponseError("BGSAVE failed; redis.log beside the data says why")


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that `target` is always complete: the new one, or the one before. Only this user can read it."""
    part: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent, delete=False) as written:
            part = Path(written.name)
            with source.open("rb") as read:
                shutil.copyfileobj(read, written)
            written.flush()
            os.fsync(written.fileno())
        part.replace(target)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise EmbeddedError(f"{target} cannot be written: {error.strerror or error}") from None


def _reader(format_name: str, file: Path, url: str | None) -> Path:
    """Return the server that is to load the backup: the one that runs, or else the one that suits the backup."""
    if url is None:
        try:
            return reader_of(format_name, str(file)).path
        except NoServer as error:
            raise EmbeddedError(str(error)) from None
    server = _running_server(url)
    if server is None or not server.reads(format_name):
        raise EmbeddedError(
            f"{file} was written by {writer_of(format_name)}, and {server or 'an unknown server'} is running: stop the "
            "service, restore, and start it again; it then takes the server that can read the backup"
        )
    return server.path


def _running_server(url: str) -> Server | None:
    with _client(url) as client:
        _wait_until_loaded(client)
        return examined(Path(client.info("server")["executable"]))


def _prepare(folder: Path, file: Path, program: Path, counted: Callable[[str], list[str]]) -> list[str]:
    """Make an append-only folder of the backup, and have a server load it."""
    for left in folder.glob("restoring-*"):  # of a restore that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="restoring-", dir=folder) as name:
        work = Path(name)
        data = work / DATA[0]
        data.mkdir(mode=0o700)
        shutil.copyfile(file, data / BASE)
        (data / f"{DATA[1]}.manifest").write_text(f"file {BASE} seq 1 type b\n")
        try:
            with running(work, program) as url, _client(url) as client:
                _wait_until_loaded(client)
                held = counted(url)
        except (EmbeddedError, RedisConnectionError) as error:
            raise EmbeddedError(f"{file} cannot be restored, and nothing was replaced: {error}") from None
        shutil.rmtree(folder / RESTORED, ignore_errors=True)
        shutil.rmtree(folder / BEFORE_RESTORE, ignore_errors=True)
        data.rename(folder / RESTORED)
    return held


def _restart(folder: Path, url: str) -> None:
    """End the running server, so that its watchdog puts the restored data in place and starts it again."""
    with _client(url) as client:
        process = client.info("server")["process_id"]
        try:
            with suppress(RedisConnectionError):  # it closes the connection without an answer
                client.execute_command("SHUTDOWN", "NOSAVE")
        except RedisError:
            shutil.rmtree(folder / RESTORED)
            raise
    deadline = time.monotonic() + RESTART_S
    while time.monotonic() < deadline:
        with suppress(RedisConnectionError, BusyLoadingError), _client(url) as client:
            if client.info("server")["process_id"] != process and not (folder / RESTORED).exists():
                _wait_until_loaded(client)
                return
        time.sleep(LOOK_EVERY_S)
    raise EmbeddedError(
        f"the embedded Redis was not started again within {RESTART_S:.0f} s: restart the service; it then uses the "
        f"restored data in {folder / RESTORED}"
    )
