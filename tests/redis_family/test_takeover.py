"""A data folder that an older, or another, server wrote: taken over with every key as it was, or refused by name."""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import RECORDED, Cause
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded.backup import back_up, restore
from service.store.embedded.server import EmbeddedError, running
from service.store.keyspace import keys_of
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.kit import Service, config, credentials, wait_for
from tests.redis_family.binaries import binaries
from tests.store.making import ask_about

pytestmark = pytest.mark.timeout(900)  # the first tests fill the servers
FOLDER = Path(os.environ["REDIS_FAMILY"])
BINARIES = binaries(FOLDER)
USERS = 20_000
LIMITS = [Limit("exact", Per.USER, 30, 7200), Limit("counted", Per.IP, 100_000, 7200)]
"""Windows of both kinds; they outlast the tests."""
READ_BY = {
    "Redis 6.2": {"Redis 7.0", "Redis 8.2", "Valkey 9.1"},
    "Redis 7.0": {"Redis 7.0", "Redis 8.2", "Valkey 9.1"},
    "Redis 8.2": {"Redis 8.2"},
    "Valkey 9.1": {"Valkey 9.1"},
}
"""Who wrote a folder → which servers can take it over."""


@contextmanager
def connected(url: str) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://"), socket_timeout=60) as client:
        wait_for(lambda: _loaded(client))
        yield client


def _loaded(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return False


READERS: dict[bytes, Callable[[Any, bytes], Any]] = {
    b"string": lambda client, key: client.get(key),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"hash": lambda client, key: client.hgetall(key),
    b"stream": lambda client, key: client.xrange(key),
}
UNORDERED = (b"set", b"hash")
STEP = 1000


def contents(client: Any) -> Iterator[tuple[bytes, bytes, Any, int]]:
    """Every key with its type, its value, and the moment it ends."""
    keys = sorted(client.scan_iter(count=1000))
    for at in range(0, len(keys), STEP):
        some = keys[at : at + STEP]
        kinds = _asked(client, some, lambda pipeline, key: pipeline.type(key))
        kind_of = dict(zip(some, kinds, strict=True))
        values = _asked(client, some, lambda pipeline, key: READERS[kind_of[key]](pipeline, key))  # noqa: B023  # at once
        ends = _asked(client, some, lambda pipeline, key: pipeline.pexpiretime(key))
        for key, kind, value, end in zip(some, kinds, values, ends, strict=True):
            yield key, kind, sorted(value.items() if kind == b"hash" else value) if kind in UNORDERED else value, end


def _asked(client: Any, keys: list[bytes], ask: Callable[[Any, bytes], Any]) -> list[Any]:
    """The answer for each key, in one round trip."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        ask(pipeline, key)
    return list(pipeline.execute())


def summary(client: Any) -> dict[str, Any]:
    """What a server holds: counts, and a digest of every key with its value and its end."""
    digest, number = hashlib.sha256(), 0
    for one in contents(client):
        digest.update(repr(one).encode())
        number += 1
    keys = keys_of("acme")
    by_status = {status.value: client.zcard(keys.by_status[status]) for status in RECORDED}
    return {"keys": number, "users": by_status, "events": client.xlen(keys.events), "digest": digest.hexdigest()}


async def _fill(url: str, first: int, last: int) -> None:
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=60)
    router = access.router(timeout_s=60)
    await router.open()
    admissions = Admissions(router, SessionRules(seen_every_ms=60_000, logout_grace_ms=0))
    acts = RedisOperatorActions(access.client)
    for start in range(first, last, 500):
        numbers = range(start, min(start + 500, last))
        causes = {f"u{n}": Cause.LOGOUT if n % 4 == 0 else Cause.REQUEST for n in numbers}
        await asyncio.gather(*(admissions.ask(ask_about(u, cause=c, limits=LIMITS)) for u, c in causes.items()))
        await acts.act("acme", [f"u{n}" for n in numbers if n % 50 == 1], Cause.SUSPEND, Author("root"))
        await acts.act("acme", [f"u{n}" for n in numbers if n % 100 == 3], Cause.TERMINATE, Author("root"))
    await admissions.close()
    await router.close()
    await access.close()


def _rewrite(client: Any) -> None:
    client.bgrewriteaof()
    wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"])


def _copy(client: Any, to: Any) -> None:
    """Write everything that one server holds to another, by plain commands: an old one knows no functions."""
    pipeline = to.pipeline(transaction=False)
    for number, (key, kind, value, end) in enumerate(contents(client)):
        if kind == b"string":
            pipeline.set(key, value)
        elif kind == b"list":
            pipeline.rpush(key, *value)
        elif kind == b"set":
            pipeline.sadd(key, *value)
        elif kind == b"zset":
            pipeline.zadd(key, dict(value))
        elif kind == b"hash":
            pipeline.hset(key, mapping=dict(value))
        else:
            for name, fields in value:
                pipeline.xadd(key, fields, id=name)
        if end >= 0:
            pipeline.pexpireat(key, end)
        if number % STEP == 0:
            pipeline.execute()
    pipeline.execute()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Makes a folder of a server, whose base file was rewritten in the middle; returns it with what it holds."""
    base = tmp_path_factory.mktemp("written")
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(writer: str) -> tuple[Path, dict[str, Any]]:
        if writer not in made:
            folder = base / writer.replace(" ", "-")
            with running(folder, BINARIES[writer].path) as url, connected(url) as client:
                made[writer] = folder, (copy(client) if writer == "Redis 6.2" else fill(url, client))
        return made[writer]

    def fill(url: str, client: Any) -> dict[str, Any]:
        asyncio.run(_fill(url, 0, USERS // 2))
        _rewrite(client)
        asyncio.run(_fill(url, USERS // 2, USERS))
        return summary(client)

    def copy(client: Any) -> dict[str, Any]:
        source, held = make("Redis 7.0")
        shutil.copytree(source, base / "source")
        with running(base / "source", BINARIES["Redis 7.0"].path) as url, connected(url) as of_source:
            _copy(of_source, client)
        _rewrite(client)
        assert client.info("server")["redis_version"].startswith("6.2")
        return held  # 6.2 does not know the commands to summarise it

    return make


def on_path(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one server on this machine."""
    shim = folder / "bin"
    shim.mkdir()
    (shim / "redis-server").symlink_to(BINARIES[server].path)
    monkeypatch.setenv("PATH", str(shim))
    monkeypatch.setattr("sys.prefix", str(folder))


PAIRS = [(writer, reader) for writer in READ_BY for reader in ("Redis 7.0", "Redis 8.2", "Valkey 9.1")]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_a_folder_is_taken_over_without_loss_or_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: Callable[[str], tuple[Path, dict[str, Any]]],
    record_property: Callable[[str, object], None],
    writer: str,
    reader: str,
) -> None:
    folder, held = written(writer)
    assert held["users"]["logged_in"] + held["users"]["logged_out"] > USERS * 0.9
    shutil.copytree(folder, tmp_path / "var")
    on_path(reader, tmp_path, monkeypatch)
    result: dict[str, Any] = {"writer": writer, "reader": reader, "before": held}
    if reader not in READ_BY[writer]:
        said = rf"was written by .*, and only {reader} "
        with pytest.raises(EmbeddedError, match=said) as refused, running(tmp_path / "var"):
            pass
        assert "check-aof" not in str(refused.value)
        result["refused"] = str(refused.value).replace(str(tmp_path / "var"), "var/redis")
    else:
        with running(tmp_path / "var") as url, connected(url) as client:
            taken = summary(client)
            assert taken == held
            _rewrite(client)  # now the folder is the reader's own
        with running(tmp_path / "var") as url, connected(url) as client:
            assert summary(client) == held
        result["after"] = taken
    record_property("takeover", json.dumps(result))


def test_a_service_goes_on_where_one_on_redis_6_2_ended(
    tmp_path: Path, written: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    folder, held = written("Redis 6.2")
    shutil.copytree(folder, tmp_path / "var" / "redis")
    service = Service(tmp_path, config(), PATH="")
    try:
        service.wait_until_ready()
        passive = {"x-passive": "true"}
        for number, status in ((0, "logged_out"), (2, "logged_in"), (19_999, "logged_in")):
            answer = service.get("/auth/status", credentials(f"u{number}") | passive)
            assert answer.data["status"] == status
        assert service.get("/auth/status", credentials("u51")).code == "USER_SUSPENDED"
        assert service.get("/auth/status", credentials("u103")).code == "USER_TERMINATED"
    finally:
        assert service.end() == 0
    assert held["keys"] > USERS


@pytest.mark.parametrize("writer", ["Redis 6.2", "Redis 7.0"])
def test_a_backup_moves_the_data_to_a_newer_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: Callable[[str], tuple[Path, dict[str, Any]]],
    writer: str,
) -> None:
    folder, held = written(writer)
    shutil.copytree(folder, tmp_path / "var")
    with running(tmp_path / "var", BINARIES[writer].path) as url, connected(url):
        back_up(tmp_path / "var", tmp_path / "backup")
    on_path("Valkey 9.1", tmp_path, monkeypatch)
    restore(tmp_path / "new", tmp_path / "backup", lambda _: [])
    with running(tmp_path / "new") as url, connected(url) as client:
        assert summary(client) == held
