"""Several workers under one master: what they share, and what the end of one means to the others."""

import json
import os
import signal
import urllib.request

import pytest

from tests.conftest import Start
from tests.kit import (
    OPERATOR_TOKEN,
    PASSIVE,
    Service,
    config,
    credentials,
    redis_server,
    sign,
    tenant,
    wait_for,
    workers_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


def test_two_workers_share_limits_metrics_and_one_log_and_drain_together(start: Start) -> None:
    service = start(config(server={"workers": 2})).wait_until_ready()
    assert len(workers_of(service)) == 2
    answers = [service.get("/auth/logout", credentials()) for _ in range(40)]
    assert [answer.status for answer in answers] == [200] * 30 + [429] * 10
    assert len({answer.headers["x-request-id"] for answer in answers}) == 40, "no worker gives another's ids"
    counted = {'{operation="logout",status="200"} 30.0', '{operation="logout",status="429"} 10.0'}
    wait_for(lambda: all(line in service.get("/metrics").body.decode() for line in counted))
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0
    assert service.log_text.count('"event": "listening"') == 1


def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(start: Start) -> None:
    service = start(config(server={"workers": 2})).wait_until_ready()
    before = workers_of(service)
    os.kill(before[0], signal.SIGKILL)
    assert {service.get("/auth/status", credentials()).status for _ in range(20)} == {200}
    wait_for(lambda: len(set(workers_of(service)) - set(before)) == 1)
    assert service.get("/auth/status", credentials()).status == 200


def test_sighup_with_a_broken_file_is_refused_by_the_master_and_a_good_one_taken_in_place_by_all(start: Start) -> None:
    service = start(config(server={"workers": 2})).wait_until_ready()
    before = workers_of(service)
    refused, taken = "configuration not reloaded, the old one stays", '"event": "configuration reloaded"'
    service.configure(config(sessions={"retention": -1}))
    service.process.send_signal(signal.SIGHUP)
    # By the master and by both workers: one that has not read the broken file yet would read the good one twice.
    wait_for(lambda: service.log_text.count(refused) >= 3)
    service.configure(config(server={"workers": 2}, tenants={"initech": tenant(token="initech-token")}))
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: service.log_text.count(taken) >= 2)
    new = {"x-tenant-token": "initech-token", "x-token": sign()}
    assert {service.get("/auth/status", new).status for _ in range(20)} == {200}
    assert workers_of(service) == before, "none was restarted"
    assert (service.log_text.count(refused), service.log_text.count(taken)) == (3, 2)


def test_the_embedded_redis_of_several_workers_outlives_none_of_them(start: Start) -> None:
    service = start(config(server={"workers": 2}, redis={"url": "embedded"})).wait_until_ready()
    assert service.get("/auth/logout", credentials()).status == 200
    os.kill(workers_of(service)[0], signal.SIGTERM)
    answers = {service.get("/auth/status", credentials() | PASSIVE).status for _ in range(20)}
    assert answers == {200}, "a worker's end is not Redis's"
    service.end(signal.SIGKILL)
    again = start(config(server={"workers": 2}, redis={"url": "embedded"}), folder=service.folder).wait_until_ready()
    assert again.get("/auth/status", credentials() | PASSIVE).data["status"] == "logged_out"


OPERATOR = {"authorization": f"Bearer {OPERATOR_TOKEN}", "content-type": "application/json"}


def send(service: Service, method: str, path: str, **body: object) -> int:
    """The status of an operator's call."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}/admin/v1/tenants/acme/{path}",
        json.dumps(body).encode(),
        OPERATOR,
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


def test_what_an_operator_sets_at_one_worker_holds_at_another_for_the_very_next_request(start: Start) -> None:
    with redis_server() as url:
        limits = {
            "logout": [{"name": "logout-ip", "per": "ip", "requests": 2, "window": 600}],
            "status": [{"name": "status-ip", "per": "ip", "requests": 50, "window": 600}],
        }
        one, other = (start(config(redis={"url": url, "timeout": 2}, limits=limits)).wait_until_ready() for _ in "ab")
        for number in range(5):
            who = credentials(f"user-{number}")
            assert other.get("/auth/status", who).status == 200
            assert send(one, "PUT", f"users/user-{number}/restrictions/status") == 200
            assert other.get("/auth/status", who).code == "RESTRICTED_CAPABILITY"
            assert send(one, "DELETE", f"users/user-{number}/restrictions/status") == 200
            assert other.get("/auth/status", who).status == 200
            assert send(one, "PUT", f"users/user-{number}/revocation") == 200
            assert other.get("/auth/status", who).code == "INVALID_USER_TOKEN"
        assert send(one, "PUT", "limits/status-ip", requests=3, window=600) == 200
        assert other.get("/auth/status", credentials()).status == 429, "lowered: what was admitted counts"
        assert [other.get("/auth/logout", credentials()).status for _ in range(3)] == [200, 200, 429]
        for requests in range(3, 8):  # the address is in the other's cache of refusals now
            assert other.get("/auth/logout", credentials()).status == 429
            assert send(one, "PUT", "limits/logout-ip", requests=requests, window=600) == 200
            wait_for(lambda: other.get("/auth/logout", credentials()).status == 200, within_s=2)
