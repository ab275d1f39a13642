"""The service as a process: started, killed, drained; alone and beside another on one Redis."""

import concurrent.futures
import os
import shutil
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from service.store.embedded.server import find_server
from tests.conftest import Start
from tests.kit import (
    OPERATOR_TOKEN,
    PASSIVE,
    Answer,
    Service,
    config,
    credentials,
    free_port,
    redis_server,
    skip_without_tls,
    tenant,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def embedded_of(service: Service) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(service.folder / "var" / "redis" / "redis.sock"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_every_acknowledged_status_survives_a_restart_and_no_child_is_left(start: Start, how: signal.Signals) -> None:
    service = start(config()).wait_until_ready()
    for i in range(20):
        path = "/auth/logout" if i % 2 else "/auth/status"
        assert service.get(path, credentials(f"user{i}")).status == 200
    with embedded_of(service) as client:
        child = int(client.info("server")["process_id"])
    assert service.end(how) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    service.start()
    service.wait_until_ready()
    assert not alive(child)
    for i in range(20):
        data = service.get("/auth/status", credentials(f"user{i}") | PASSIVE).data
        assert data["status"] == ("logged_out" if i % 2 else "logged_in")
    assert service.end() == 0


def test_two_services_on_one_folder_the_second_says_so_and_exits_2(start: Start) -> None:
    first = start(config()).wait_until_listening()
    second = start(config(), folder=first.folder, SERVICE__SERVER__PORT="0")
    assert second.process.wait(20) == 2
    assert f"another service (process {first.process.pid}) uses the embedded Redis" in second.log_text
    assert first.get("/healthz").status == 200


def test_a_folder_with_a_long_path_works(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("er" * 40)
    assert len(str(folder)) > 150
    service = start(config(), folder=folder).wait_until_ready()
    assert service.get("/auth/status", credentials()).status == 200


def test_1000_logouts_at_once_at_two_services_on_one_redis_admit_exactly_30(start: Start) -> None:
    with redis_server() as url:
        services = [start(config(redis={"url": url, "timeout": 5})).wait_until_ready() for _ in range(2)]
        headers = credentials()

        def one(i: int) -> int:
            return services[i % 2].get("/auth/logout", headers).status

        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(one, range(1000)))
        assert (answers.count(200), answers.count(429)) == (30, 970)
        client: Any = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
        events = client.xrange("rc:{acme}:events")
        transitions = [event for _, event in events if event[b"type"] == b"transition"]
        assert len(transitions) == 1, "one transition, one event"


def test_redis_killed_under_load_is_back_within_moments_and_nothing_acknowledged_is_lost(start: Start) -> None:
    service = start(config(limits={"logout": [], "status": []})).wait_until_ready()
    reported: dict[str, int] = {}

    def load(worker: int) -> None:
        for i in range(150):
            user = f"user{worker}-{i}"
            reported[user] = service.get("/auth/logout", credentials(user)).status

    clients = [threading.Thread(target=load, args=(worker,)) for worker in range(4)]
    for client in clients:
        client.start()
    with embedded_of(service) as client_of_redis:
        os.kill(int(client_of_redis.info("server")["process_id"]), signal.SIGKILL)
    for client in clients:
        client.join()
    assert set(reported.values()) <= {200, 503}
    wait_for(lambda: service.get("/readyz").status == 200)
    assert "the embedded redis ended (exit code -9) and is started again" in service.log_text
    for user, status in reported.items():
        if status == 200:
            assert service.get("/auth/status", credentials(user) | PASSIVE).data["status"] == "logged_out", user


def test_a_guard_that_is_killed_is_logged_and_redis_serves_on(start: Start) -> None:
    service = start(config()).wait_until_ready()
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    [guard] = [int(pid) for pid in children if b"watchdog.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(guard, signal.SIGKILL)
    wait_for(lambda: "the guard of the embedded redis was ended" in service.log_text)
    assert service.get("/auth/status", credentials()).status == 200


def test_it_starts_without_redis_and_is_ready_once_redis_is_there(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "later.sock"
    service = start(config(redis={"url": f"unix://{path}"})).wait_until_listening()
    assert service.get("/readyz").status == 503
    assert service.get("/auth/status", credentials()).code == "SERVICE_UNAVAILABLE"
    with redis_server() as url:
        path.symlink_to(url.removeprefix("unix://"))
        wait_for(lambda: service.get("/readyz").status == 200)
        assert service.get("/auth/status", credentials()).status == 200


def test_it_starts_without_its_cluster_answers_503_and_ends_at_once(start: Start) -> None:
    service = start(config(redis={"url": f"redis+cluster://127.0.0.1:{free_port()}"})).wait_until_listening()
    for _ in range(3):
        assert service.get("/readyz").status == 503
        assert service.get("/auth/status", credentials()).code == "SERVICE_UNAVAILABLE"
        answer = service.get("/admin/v1/tenants/acme/sessions", {"authorization": f"Bearer {OPERATOR_TOKEN}"})
        assert answer.status == 503
    assert "Traceback" not in service.log_text
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(3) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_to_the_whole_process_tree_lets_requests_end(start: Start, workers: int) -> None:
    """As pm2 sends it, and systemd unless `KillMode=mixed`: to the embedded server, too, and there first."""
    service = start(config(server={"workers": workers}, redis={"timeout": 10})).wait_until_ready()
    assert service.get("/auth/logout", credentials()).status == 200
    with embedded_of(service) as client:
        pid = int(client.info("server")["process_id"])
        client.client_pause(2500, all=False)  # writes wait
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(service.get, "/auth/logout", credentials(f"user{i}")) for i in range(8)]
            wait_for(lambda: any(one["cmd"] == "fcall" and "b" in one["flags"] for one in client.client_list()))
            for one in (pid, *tree_of(service.process.pid)):
                os.kill(one, signal.SIGTERM)
            assert client.info("server")["process_id"] == pid
            assert {_status_of(answer) for answer in answers} <= {200, 0}
    assert service.process.wait(30) == 0
    wait_for(lambda: not alive(pid))
    assert "is started again" not in service.log_text


def tree_of(pid: int) -> list[int]:
    """The children of a process, and theirs: the last ones first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*(one for child in children for one in tree_of(int(child))), pid]


def _status_of(answer: "concurrent.futures.Future[Answer]") -> int:
    """The status; 0 for a connection that came when the service did not accept any more."""
    try:
        return answer.result().status
    except OSError:
        return 0


@pytest.mark.parametrize("place", ["var", "var/redis/appendonlydir"])
def test_a_data_folder_that_cannot_be_written_is_one_sentence_and_exit_2(start: Start, place: str) -> None:
    service = start(config())
    service.end(signal.SIGKILL)
    shutil.rmtree(service.folder / "var", ignore_errors=True)
    wrong = service.folder / place
    wrong.parent.mkdir(parents=True, exist_ok=True)
    wrong.write_text("a file in place of a folder")
    service.start()
    assert service.process.wait(30) == 2
    [sentence] = service.log_text.splitlines()
    assert sentence.startswith(f"the embedded Redis cannot use {wrong}")
    assert sentence.endswith("set redis.url")


def test_sigterm_lets_requests_end_and_exits_0(start: Start) -> None:
    service = start(config(redis={"timeout": 5})).wait_until_ready()
    assert service.get("/auth/status", credentials()).status == 200
    with embedded_of(service) as client:
        client.client_pause(800)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(service.get, "/auth/logout", credentials(f"user{i}")) for i in range(8)]
        time.sleep(0.3)  # they wait for Redis now
        service.process.send_signal(signal.SIGTERM)
        assert [answer.result().status for answer in answers] == [200] * 8
    assert service.process.wait(5) == 0


def test_a_port_that_is_taken_is_said_plainly(start: Start) -> None:
    first = start(config()).wait_until_listening()
    second = start(config(), SERVICE__SERVER__PORT=str(first.port))
    assert second.process.wait(20) == 2
    assert f"cannot listen on 127.0.0.1:{first.port}: Address already in use" in second.log_text
    assert "another program, perhaps `make run`, listens there" in second.log_text
    assert "Traceback" not in second.log_text


def test_rediss_with_a_ca_and_a_client_certificate(start: Start, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    binary = find_server()
    assert binary is not None
    skip_without_tls(binary)
    authority = trustme.CA()
    files = {}
    for name, certificate in (("server", authority.issue_cert("127.0.0.1")), ("client", authority.issue_cert("x"))):
        files[f"{name}_key"] = tmp_path / f"{name}.key"
        files[f"{name}_cert"] = tmp_path / f"{name}.pem"
        certificate.private_key_pem.write_to_path(files[f"{name}_key"])
        certificate.cert_chain_pems[0].write_to_path(files[f"{name}_cert"])
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    port = str(free_port())
    tls_server = ("--tls-port", port, "--tls-cert-file", str(files["server_cert"]))
    with redis_server(*tls_server, "--tls-key-file", str(files["server_key"]), "--tls-ca-cert-file", str(ca)):
        tls = {"ca_file": str(ca), "cert_file": str(files["client_cert"]), "key_file": str(files["client_key"])}
        url = f"rediss://127.0.0.1:{port}"
        service = start(config(redis={"url": url, "tls": tls, "timeout": 2})).wait_until_ready()
        assert service.get("/auth/status", credentials()).status == 200
        unknown = start(config(redis={"url": url, "timeout": 2})).wait_until_listening()
        assert unknown.get("/readyz").status == 503, "a server that no known authority vouches for"


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_thousand_clients_that_hang_up_leave_no_wrong_answer_and_nothing_behind(start: Start) -> None:
    unlimited = [{"name": "status-ip", "per": "ip", "requests": 1_000_000, "window": 60}]
    service = start(config(limits={"status": unlimited})).wait_until_ready()
    users = [credentials(f"user-{number}") for number in range(50)]
    service.get("/auth/status", users[0])
    before = open_files(service.process.pid)
    stop, wrong, served = threading.Event(), [], []

    def load() -> None:
        number = 0
        while not stop.is_set():
            answer = service.get("/auth/status", users[number % 50])
            if answer.status != 200 or answer.data["userId"] != f"user-{number % 50}":
                wrong.append((number, answer.status, answer.body))
            served.append(number)
            number += 1

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(1000):
        lines = "".join(f"{name}: {value}\r\n" for name, value in users[number % 50].items())
        with socket.create_connection(("127.0.0.1", service.port)) as one:
            one.sendall(f"GET /auth/status HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode())
    wait_for(lambda: len(served) > 200)
    stop.set()
    for client in clients:
        client.join()
    assert not wrong
    wait_for(lambda: open_files(service.process.pid) <= before + 1)  # a thread's own reading of it, perhaps
    assert service.get("/auth/status", users[0]).status == 200
    assert '"level": "error"' not in service.log_text
    assert service.end() == 0, "nobody was left waiting"


def test_refusals_that_repeat_are_logged_once_a_second(start: Start) -> None:
    service = start(config(limits={"logout": [{"name": "logout-ip", "per": "ip", "requests": 1, "window": 60}]}))
    service.wait_until_ready()
    wait_for(lambda: service.get("/auth/logout", credentials()).status == 429)
    for _ in range(50):
        assert service.get("/auth/logout", credentials()).status == 429
    wait_for(lambda: '"event": "refused again"' in service.log_text)
    assert service.log_text.count('"status": 429') < 20


def cpu_s(pid: int) -> float:
    """CPU of a process and of its children, in seconds."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            if stat.parent.name == str(pid) or fields[1] == str(pid):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 4])
def test_ten_thousand_tenants_cost_at_most_three_seconds_of_cpu_at_the_start(start: Start, workers: int) -> None:
    """The start and the seconds after it: the background tasks' first rounds are over all tenants."""
    spent = []
    for number in (1, 10_000):
        tenants = {f"customer-{at}": tenant(token=f"token-of-customer-{at}") for at in range(number)}
        content = {**config(server={"workers": workers}), "tenants": tenants, "admin": {}}
        # Without the coverage that the environment may ask for: it costs more than what is measured.
        service = start(content, COVERAGE_PROCESS_CONFIG="", COVERAGE_PROCESS_START="").wait_until_ready()
        time.sleep(3)
        spent.append(cpu_s(service.process.pid))
        service.end()
    assert spent[1] - spent[0] <= 3, spent
