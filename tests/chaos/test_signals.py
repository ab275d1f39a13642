"""What a signal means: alike for one process and for several workers, and whenever it comes."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.kit import Service, config, credentials, wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
NO_REDIS = {"url": "unix:///nonexistent/redis.sock"}

SLOW_FORK = """
import os, sys, time
fork = os.fork
def slow():
    if (pid := fork()) == 0:
        time.sleep(2)
    return pid
os.fork = slow
from service.__main__ import main
sys.exit(main())
"""
"""The service, where a process that was forked gets its turn late, as on a loaded machine."""


class SlowToFork(Service):
    """A service whose workers begin two seconds after they were forked."""

    program = ("-c", SLOW_FORK)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_is_to_end_before_it_has_begun_ends(tmp_path: Path) -> None:
    service = SlowToFork(tmp_path, config(server={"workers": 2}, redis=NO_REDIS))
    try:
        [first, *_] = wait_for(lambda: workers_of(service))
        os.kill(first, signal.SIGTERM)
        wait_for(lambda: is_gone(first))
        assert service.process.poll() is None, "the others go on, and it is replaced"
    finally:
        assert service.end() == 0


def test_a_reload_that_comes_before_a_worker_has_begun_is_made_by_it(tmp_path: Path) -> None:
    service = SlowToFork(tmp_path, config(server={"workers": 2}, redis=NO_REDIS))
    try:
        [first, *_] = wait_for(lambda: workers_of(service))
        os.kill(first, signal.SIGHUP)
        wait_for(lambda: '"event": "configuration reloaded"' in service.log_text)
        assert not is_gone(first)
    finally:
        assert service.end() == 0


class ReadFromPipe(Service):
    """A service whose configuration is a pipe at first, so that a test knows when it is read."""

    def configure(self, content: Mapping[str, Any]) -> None:
        super().configure(content)
        self.content = self.path.read_text()
        self.path.unlink()
        os.mkfifo(self.path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_that_comes_while_the_service_starts_is_made_once_it_runs(tmp_path: Path, workers: int) -> None:
    service = ReadFromPipe(tmp_path, config(server={"workers": workers}, redis=NO_REDIS))
    try:
        with service.path.open("w") as being_read:  # open: the service has begun to read its configuration
            service.process.send_signal(signal.SIGHUP)
            service.path.unlink()
            service.path.write_text(service.content)
            being_read.write(service.content)
        service.wait_until_listening()
        wait_for(lambda: service.log_text.count('"event": "configuration reloaded"') >= workers)
    finally:
        assert service.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_log_rotation_and_terminals_send_is_ignored(start: Start, workers: int) -> None:
    service = start(config(server={"workers": workers})).wait_until_ready()
    others = workers_of(service) if workers > 1 else []
    for one in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
        for pid in (service.process.pid, *others):
            os.kill(pid, one)
        assert service.get("/auth/status", credentials()).status == 200
    if workers > 1:
        assert workers_of(service) == others, "none was added, removed or replaced"
    assert service.end() == 0


@pytest.mark.parametrize(("workers", "how"), [(1, signal.SIGQUIT), (2, signal.SIGQUIT), (2, signal.SIGINT)])
def test_what_ends_the_service_may_be_sent_to_all_its_processes_and_it_exits_0(
    start: Start, workers: int, how: signal.Signals
) -> None:
    service = start(config(server={"workers": workers})).wait_until_ready()
    for pid in [service.process.pid, *(workers_of(service) if workers > 1 else [])]:  # as pm2 and systemd do
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    assert service.process.wait(30) == 0
    assert "Traceback" not in service.log_text
