"""Forwarded addresses over HTTP: what an operator sees of those that are not used."""

from structlog.testing import capture_logs

from service.app import RUNTIME
from tests.conftest import MakeClient
from tests.kit import credentials


async def test_a_forwarded_address_from_an_untrusted_peer_is_in_the_log_and_in_a_metric(
    make_client: MakeClient,
) -> None:
    client = await make_client()
    with capture_logs() as lines:
        for number in range(3):
            headers = {**credentials(), "x-forwarded-for": f"203.0.113.{number}"}
            assert (await client.get("/auth/status", headers=headers)).status == 200
        client.app[RUNTIME].log_throttle.flush()
    warnings = [line for line in lines if line.get("problem") == "untrusted_peer"]
    assert {line["peer"] for line in warnings} == {"127.0.0.1"}
    text = await (await client.get("/metrics")).text()
    assert 'rollcall_client_address_problems_total{problem="untrusted_peer"} 3.0' in text


async def test_an_address_behind_a_trusted_proxy_is_counted_without_its_port(make_client: MakeClient) -> None:
    limits = {"status": [{"name": "status-ip", "per": "ip", "requests": 1, "window": 60}]}
    client = await make_client(server={"trusted_proxies": ["127.0.0.0/8"]}, limits=limits)
    statuses = []
    for node in ("203.0.113.1:17085", "203.0.113.1:17086", "203.0.113.2:17085"):
        headers = {**credentials(), "x-forwarded-for": node}
        statuses.append((await client.get("/auth/status", headers=headers)).status)
    assert statuses == [200, 429, 200]


async def test_a_limit_per_address_counts_what_a_trusted_proxy_says(make_client: MakeClient) -> None:
    one = [{"name": "one", "per": "ip", "requests": 1, "window": 60}]
    client = await make_client(server={"trusted_proxies": ["127.0.0.0/8"]}, limits={"status": one})

    async def status(forwarded: str) -> int:
        return (await client.get("/auth/status", headers=credentials() | {"x-forwarded-for": forwarded})).status

    assert [await status("1.1.1.1"), await status("1.1.1.1"), await status("9.9.9.9, 1.1.1.1")] == [200, 429, 429]
    assert [await status("2.2.2.2"), await status("2001:db8::1"), await status("2001:db8::2")] == [200, 200, 429]


async def test_nobody_else_is_believed(make_client: MakeClient) -> None:
    one = [{"name": "one", "per": "ip", "requests": 1, "window": 60}]
    client = await make_client(limits={"status": one})
    for forwarded, status in (("1.1.1.1", 200), ("2.2.2.2", 429)):
        answer = await client.get("/auth/status", headers=credentials() | {"x-forwarded-for": forwarded})
        assert answer.status == status
