"""The same requests hidden in requests, at an nginx with the configuration of `examples/`.

Whatever nginx makes of them: for each request that it answers, service and upstream have seen at most one, nobody
is hidden behind somebody else's admission, and who comes next gets an answer of his own.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks import raw_http as wire
from tests.attacks.conftest import Attack, of
from tests.attacks.test_smuggling import AMBIGUOUS, HIDDEN, LAST, SWALLOWED, mallory
from tests.kit import sign, tenant
from tests.proxies.deployment import Deployment, deployed
from tests.proxies.versions import NGINX

pytestmark = pytest.mark.slow


def acme(content: dict[str, Any]) -> None:
    """The tests' tenant, and no limits."""
    content["tenants"] = {"acme": tenant()}
    content["limits"] = {"verify": [], "logout": [], "status": []}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(NGINX, tmp_path_factory.mktemp("attacked"), acme) as made:
        yield made


def handled(deployment: Deployment) -> int:
    """How many requests the service has admitted or refused so far."""
    text = deployment.service.get("/metrics").body.decode()
    found = re.findall(r'rollcall_requests_total\{operation="(?:logout|status|verify)",status="\d+"\} (\S+)', text)
    return int(sum(map(float, found)))


def users(deployment: Deployment) -> list[str]:
    """Whose status has changed."""
    return [user for user, _ in deployment.events("acme")]


@pytest.fixture(params=["/auth/logout", "/api/things"])
def at(request: pytest.FixtureRequest, deployment: Deployment) -> str:
    """Where it is sent to: what nginx passes on to the service, and what it asks the service about."""
    deployment.upstream.seen.clear()
    return str(request.param)


async def strike(deployment: Deployment, raw: bytes, at: str) -> list[int]:
    """What nginx answers; then the service, the upstream and the next client are looked at."""
    before = handled(deployment)
    statuses = wire.statuses(await wire.send(deployment.port, raw.replace(b" /auth/logout", f" {at}".encode(), 1)))
    assert handled(deployment) - before <= len(statuses), "no more than nginx answers"
    seen = [(one["target"], one["headers"].get("x-auth-user")) for one in deployment.upstream.seen]
    assert len(seen) <= statuses.count(200)
    assert set(seen) <= {("/api/things", "mallory"), ("/nothing", "mallory")}
    answer = await wire.ask(deployment.port, "GET", "/api/next", of(sign("bob")))
    assert answer.status == 200
    assert deployment.upstream.seen[-1]["target"] == "/api/next"
    assert deployment.upstream.seen[-1]["headers"]["x-auth-user"] == "bob"
    return statuses


@pytest.mark.parametrize("name", SWALLOWED)
async def test_behind_nginx_a_body_is_never_a_request(
    deployment: Deployment, attack: Attack, at: str, name: str
) -> None:
    statuses = [status for status in await strike(deployment, SWALLOWED[name] + LAST, at) if status != 100]
    attack(name, " ".join(map(str, statuses)))
    assert len(statuses) in (1, 2)
    assert statuses[-1] in (400, 401, 405, 501), "the last request has no tokens"
    assert "alice" not in users(deployment)


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_behind_nginx_what_may_be_read_in_two_ways_is_read_in_one(
    deployment: Deployment, attack: Attack, at: str, name: str
) -> None:
    hidden = HIDDEN.replace(b"x-tenant-token", b"x-nobodys-token")
    statuses = await strike(deployment, AMBIGUOUS[name] + hidden + LAST, at)
    attack(name, " ".join(map(str, statuses)) or "hung up")
    assert statuses.count(200) <= 1, "mallory's own, at most"
    assert set(statuses) <= {200, 400, 401, 405, 413, 414, 501, 505}
    assert "alice" not in users(deployment)


async def test_behind_nginx_more_fields_than_usual_are_no_outage(
    deployment: Deployment, attack: Attack, at: str
) -> None:
    fields = [b"x%d: y" % number for number in range(600)]
    statuses = await strike(deployment, mallory(*fields) + LAST, at)
    attack("600 fields", " ".join(map(str, statuses)))
    assert statuses[0] in (200, 400, 431)


async def test_behind_nginx_a_request_that_hides_nothing_is_answered(deployment: Deployment, at: str) -> None:
    """Otherwise the tests above would prove nothing."""
    assert await strike(deployment, mallory(b"content-length: 3", body=b"abc") + LAST, at) == [200, 401]
