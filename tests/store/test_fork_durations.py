"""A fork that takes longer than admissions wait is a warning."""

import pytest
from structlog.testing import capture_logs

from service.store.connection.client import RedisAccess
from service.store.fork_durations import ForkDurations


@pytest.mark.parametrize("access", ["real", "cluster"], indirect=True)
async def test_a_fork_longer_than_the_timeout_is_a_warning_and_is_logged_once(access: RedisAccess) -> None:
    everywhere = {"target_nodes": "primaries"} if access.topology is not None else {}
    await access.client.execute_command("BGSAVE", **everywhere)
    short, long = ForkDurations(access.client, 1e-6), ForkDurations(access.client, 60)
    with capture_logs() as lines:
        for _ in range(2):
            await short.ask()
            await long.ask()
    servers = 1 if access.topology is None else 3
    assert len(list(short.warnings())) == servers
    assert all("longer than redis.timeout (0 ms)" in sentence for sentence in short.warnings())
    assert list(long.warnings()) == []
    assert [line["event"] for line in lines] == ["redis forked for longer than redis.timeout"] * servers


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_server_that_does_not_say_how_long_it_forked_is_no_warning(access: RedisAccess) -> None:
    forks = ForkDurations(access.client, 0.25)
    await forks.ask()
    assert list(forks.warnings()) == []
