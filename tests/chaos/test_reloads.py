"""Reloads of a running service: by SIGHUP, by a file that is watched, and beside requests under way."""

import json
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.kit import (
    PASSIVE,
    Service,
    config,
    credentials,
    sign,
    tenant,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


def test_sighup_takes_a_good_file_keeps_the_old_one_over_a_broken_one_and_drops_no_request(start: Start) -> None:
    service = start(config()).wait_until_ready()
    stop, answers = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            answers.append(service.get("/auth/status", credentials() | PASSIVE).status)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    lowered = config(limits={"logout": [{"name": "logout-ip", "per": "ip", "requests": 3, "window": 60}]})
    changed = {**lowered, "tenants": {**lowered["tenants"], "initech": tenant(token="initech-token")}}
    service.configure(changed)
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in service.log_text)
    new = service.get("/auth/logout", {"x-tenant-token": "initech-token", "x-token": sign()})
    assert new.headers["RateLimit-Policy"] == '"logout-ip";q=3;w=60'
    service.configure(config(server={"workers": 99}, sessions={"retention": -1}))
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration not reloaded, the old one stays" in service.log_text)
    assert "server.workers: must be at most 64" in service.log_text
    assert "sessions.retention" in service.log_text
    assert service.get("/auth/logout", {"x-tenant-token": "initech-token", "x-token": sign()}).status == 200
    stop.set()
    for client in clients:
        client.join()
    assert set(answers) <= {200, 429}
    assert answers.count(200) > 10


def test_a_removed_key_and_tenant_are_gone_with_the_reload(start: Start) -> None:
    service = start(config()).wait_until_ready()
    assert service.get("/auth/status", credentials()).status == 200
    service.configure(config(tenants={"acme": tenant(secret="another-secret-of-at-least-32-bytes!")}))
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in service.log_text)
    assert service.get("/auth/status", credentials()).code == "INVALID_USER_TOKEN"


def test_a_watched_file_is_taken_when_it_changes_and_what_needs_a_restart_is_said(start: Start) -> None:
    service = start(config(server={"watch_config": True})).wait_until_ready()
    time.sleep(0.3)  # the watch begins after the service listens
    service.configure(
        config(
            server={"watch_config": True, "port": 1},
            tenants={"acme": tenant(restricted_capabilities=["status"])},
        )
    )
    wait_for(lambda: service.get("/auth/status", credentials()).status == 403)
    assert '"settings": ["server.port"]' in service.log_text


def reported_limit(service: Service, requests: int) -> bool:
    return service.get("/auth/logout", credentials()).headers["X-RateLimit-Limit"] == str(requests)


def test_a_file_that_is_swapped_by_a_link_is_taken_every_time(start: Start, tmp_path: Path) -> None:
    """As Kubernetes does it: config.yaml → ..data/config.yaml, and ..data is swapped."""
    service = start(config(server={"watch_config": True})).wait_until_ready()
    service.end()
    folder = service.folder
    for version in range(4):
        (folder / f"v{version}").mkdir()
        limits = {"logout": [{"name": "logout-ip", "per": "ip", "requests": 100 + version, "window": 60}]}
        server = {"watch_config": True, "port": service.port}
        (folder / f"v{version}" / "config.yaml").write_text(json.dumps(config(server=server, limits=limits)))
    service.path.unlink()
    (folder / "data").symlink_to("v0")
    service.path.symlink_to("data/config.yaml")
    service.start()
    service.wait_until_ready()
    time.sleep(0.3)  # the watch begins after the service listens
    for version in (1, 2, 3):
        (folder / "new").symlink_to(f"v{version}")
        (folder / "new").rename(folder / "data")
        wait_for(partial(reported_limit, service, 100 + version))


def test_a_file_behind_a_folder_that_is_swapped_by_a_link_is_taken_every_time(start: Start, tmp_path: Path) -> None:
    """As a deployment does it: current → v1, and the configuration is current/config.yaml."""
    service = start(config(server={"watch_config": True}), folder=tmp_path / "service")
    service.end()
    for version in range(3):
        (tmp_path / f"v{version}").mkdir()
        limits = {"logout": [{"name": "logout-ip", "per": "ip", "requests": 100 + version, "window": 60}]}
        server = {"watch_config": True, "port": service.port}
        content = json.dumps(config(server=server, limits=limits))
        (tmp_path / f"v{version}" / "config.yaml").write_text(content)
    (tmp_path / "current").symlink_to("v0")
    service.path = tmp_path / "current" / "config.yaml"
    service.start()
    service.wait_until_ready()
    time.sleep(0.3)  # the watch begins after the service listens
    for version in (1, 2):
        (tmp_path / "new").symlink_to(f"v{version}")
        (tmp_path / "new").rename(tmp_path / "current")
        wait_for(partial(reported_limit, service, 100 + version))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_signals_in_three_seconds_are_two_reloads_at_most_and_the_last_file_is_taken(
    start: Start, workers: int
) -> None:
    service = start(config(server={"workers": workers})).wait_until_ready()
    began_s = time.monotonic()
    for number in range(100):
        time.sleep(max(0.0, began_s + number * 0.029 - time.monotonic()))
        if number == 99:
            service.configure(config(server={"workers": workers}, tenants={"initech": tenant(token="initech-token")}))
        service.process.send_signal(signal.SIGHUP)
    new = {"x-tenant-token": "initech-token", "x-token": sign()}
    wait_for(lambda: {service.get("/auth/status", new).status for _ in range(10)} == {200})
    assert service.log_text.count('"event": "configuration reloaded"') <= 2 * workers
