"""The log never delays the service: its reader may be gone or slow, or its disk full."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit import (
    OPERATOR_TOKEN,
    TENANT_TOKEN,
    Service,
    config,
    credentials,
    is_running,
    redis_server,
    wait_for,
    workers_of,
)

pytestmark = pytest.mark.slow

PLENTY = {"limits": {"logout": [{"name": "logout-ip", "per": "ip", "requests": 100_000, "window": 3600}], "status": []}}
READERS = ("gone", "standing still", "on a full disk")


class WithReader(Service):
    """A service whose log goes to a reader that stops reading once `break_reader` is called (a full disk: at once)."""

    def __init__(self, folder: Path, content: dict[str, object], reader: str) -> None:
        self.kind = reader
        self._reads = threading.Event()
        super().__init__(folder, content)

    def start(self) -> None:
        self.log = (self.folder / "output.log").open("w")
        if self.kind == "on a full disk":
            self._end, write_end = -1, os.open("/dev/full", os.O_WRONLY)
        else:
            self._end, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--config", str(self.path)],
            cwd=Path(__file__).parents[2],
            env=self.environment,
            stdout=self.log,
            stderr=write_end,
        )
        os.close(write_end)

    def break_reader(self) -> None:
        if self.kind == "gone":
            self.stop_reading()

    def stop_reading(self) -> None:
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def wait_until_ready(self) -> "WithReader":
        wait_for(lambda: self.is_ready)
        return self

    @property
    def is_ready(self) -> bool:
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture(params=[(reader, workers) for reader in READERS for workers in (1, 2)], ids=str)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WithReader]:
    reader, workers = request.param
    with redis_server() as url:
        content = config(**PLENTY, redis={"url": url, "timeout": 2}, server={"workers": workers, "access_log": "all"})
        running = WithReader(tmp_path, content, reader)
        try:
            running.wait_until_ready()
            running.break_reader()
            yield running
        finally:
            if running.process.poll() is None:
                running.process.kill()
            running.process.wait()
            running.stop_reading()
            running.log.close()


def ask(service: Service, number: int) -> list[tuple[str, int]]:
    headers = credentials(f"user-{number % 50}")
    return [
        ("status", service.get("/auth/status", headers).status),
        ("logout", service.get("/auth/logout", headers).status),
        ("refused", service.get("/auth/logout", {"x-tenant-token": TENANT_TOKEN}).status),
    ]


def test_whatever_becomes_of_the_logs_reader_no_request_fails_and_every_part_goes_on(service: WithReader) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = Counter(answer for asked in pool.map(lambda n: ask(service, n), range(250)) for answer in asked)
    assert answers == {("status", 200): 250, ("logout", 200): 250, ("refused", 401): 250}
    operator = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    assert service.get("/admin/v1/tenants/acme/sessions?limit=1", operator).status == 200
    if service.kind != "standing still":  # there a pipe and a queue take the first thousands of lines
        wait_for(lambda: service.metric("rollcall_log_lines_lost_total") >= 750)  # each worker reports once a second
        assert any("log were lost" in one for one in service.get("/readyz").data["warnings"])
    began = time.time()
    wait_for(lambda: _oldest_run(service) > began, within_s=20)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(15) == 0


def test_an_outage_of_redis_while_nobody_reads_the_log_ends_with_the_outage(tmp_path: Path) -> None:
    for reader in READERS:
        folder = tmp_path / reader.replace(" ", "-")
        folder.mkdir()
        with redis_server() as url:
            service = WithReader(folder, config(**PLENTY, redis={"url": url}), reader)
            try:
                service.wait_until_ready()
                service.break_reader()
                redis = _process_of(url)
                os.kill(redis, signal.SIGSTOP)
                refused = [service.get("/auth/status", credentials()).status for _ in range(6)]
                os.kill(redis, signal.SIGCONT)
                assert refused == [503] * 6
                wait_for(lambda: service.get("/auth/status", credentials()).status == 200, within_s=5)  # noqa: B023
                assert service.end() == 0
            finally:
                service.stop_reading()


def _oldest_run(service: WithReader) -> float:
    prefix = "rollcall_task_last_run_timestamp_seconds{"
    lines = service.get("/metrics").body.decode().splitlines()
    return min(float(line.rpartition(" ")[2]) for line in lines if line.startswith(prefix))


def _process_of(url: str) -> int:
    found = subprocess.run(["pgrep", "-f", url.removeprefix("unix://")], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def test_workers_without_their_master_end_and_the_next_start_gets_port_and_data(tmp_path: Path) -> None:
    service = WithReader(tmp_path, config(**PLENTY, server={"workers": 2}), "gone")
    try:
        service.wait_until_ready()
        service.break_reader()
        assert service.get("/auth/logout", credentials()).status == 200
        workers = workers_of(service)
        service.end(signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, workers)), within_s=30)
        service.stop_reading()
        service.start()
        service.wait_until_ready()
        passive = {**credentials(), "x-passive": "true"}
        assert service.get("/auth/status", passive).data["status"] == "logged_out"
        assert service.end() == 0
    finally:
        service.stop_reading()
