"""Two deployments on one Redis, with namespaces of their own: neither sees, sweeps or wakes the other."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from service.store.rights import least_acl
from service.store.scripts import LIBRARY
from tests.conftest import Start
from tests.kit import OPERATOR, PASSIVE, Service, config, credentials, redis_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


@pytest.fixture
def url() -> Iterator[str]:
    with redis_server() as made:
        yield made


def deployment(url: str, namespace: str, **changes: Any) -> dict[str, Any]:
    """A configuration with the same tenants and limits as the other's."""
    return config(redis={"url": url, "timeout": 5, **({"namespace": namespace} if namespace else {})}, **changes)


def status(service: Service, user: str) -> str:
    return str(service.get("/auth/status", {**credentials(user), **PASSIVE}).data["status"])


def test_two_deployments_on_one_redis_share_no_status_limit_sweep_or_library(start: Start, url: str) -> None:
    limits = {"logout": [{"name": "logout-ip", "per": "ip", "requests": 1, "window": 3600}]}
    ours, theirs = (
        start(deployment(url, namespace, limits=limits)).wait_until_ready() for namespace in ("rc", "other-one")
    )
    assert ours.get("/auth/logout", credentials("alice")).status == 200
    assert ours.get("/auth/logout", credentials("alice")).status == 429
    assert (status(ours, "alice"), status(theirs, "alice")) == ("logged_out", "none")
    assert theirs.get("/auth/logout", credentials("alice")).status == 200, "the quota is its own"
    assert theirs.get("/auth/status", credentials("bob", ttl_s=1)).status == 200
    wait_for(lambda: status(theirs, "bob") == "expired", within_s=30)  # it sweeps, whoever holds the other's lease
    listed = ours.get("/admin/v1/tenants/acme/sessions", OPERATOR).data["sessions"]
    assert [session["userId"] for session in listed] == ["alice"]
    with redis.Redis.from_url(url) as client:
        keys: Any = client.keys("*")
        assert {key.partition(b":")[0] for key in keys} == {b"rc", b"other-one"}
        libraries: Any = client.execute_command("FUNCTION", "LIST")
        assert len(libraries) == 2, "a library each: neither deletes the other's"
        channels: Any = client.pubsub_channels()
        assert {channel.partition(b":")[0] for channel in channels} == {b"rc", b"other-one"}


def test_what_was_kept_before_there_were_namespaces_is_that_of_the_default_one(start: Start, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        now_ms = int(time.time() * 1000)
        client.set("rc:{acme}:u:alice", f"s- {now_ms} {now_ms} {now_ms + 3_600_000}")
        client.zadd("rc:{acme}:by:suspended", {"alice": now_ms})
    service = start(deployment(url, "")).wait_until_ready()
    assert service.get("/auth/status", credentials("alice")).code == "USER_SUSPENDED"


def test_the_least_rights_of_a_namespace_are_enough_for_it_and_reach_no_other(start: Start, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        rules = least_acl(list(LIBRARY.commands.values()), "single", "other-one")
        client.execute_command("ACL", "SETUSER", "rollcall", "reset", "on", ">secret", *rules)
    mine = f"{url}?username=rollcall&password=secret"
    service = start(deployment(mine, "other-one")).wait_until_ready()
    assert service.get("/auth/logout", credentials("alice")).status == 200
    assert service.get("/readyz").data["warnings"] == []
    elsewhere = start(deployment(mine, "rc")).wait_until_listening()
    wait_for(lambda: "lacks rights" in elsewhere.log_text)
    assert elsewhere.get("/readyz").status == 503


def test_the_embedded_server_of_another_namespace_has_a_folder_of_its_own(start: Start, tmp_path: Path) -> None:
    service = start(config(redis={"namespace": "second"})).wait_until_ready()
    assert [path.name for path in (service.folder / "var").iterdir()] == ["redis-second"]
