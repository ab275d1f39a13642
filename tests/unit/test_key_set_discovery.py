"""Key sets that are found by the metadata of their issuer."""

from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from service.background.key_set_refresh import Source
from service.core.errors import UnknownKey
from service.core.tokens.claims import ClaimRules
from service.core.tokens.verification import KeyRing
from tests.unit.issuer import NOW, RSA, Issuer, Subscription, sign, verdict


class Provider:
    """An OpenID provider: its metadata, and where its keys are."""

    def __init__(self, issuer: Issuer) -> None:
        self.keys, self.base, self.asked = issuer, "", list[str]()
        self.metadata: dict[str, Any] = {"jwks_uri": issuer.url}
        self.at = "/.well-known/openid-configuration"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.json_response(self.metadata) if request.path == self.at else web.Response(status=404)


@pytest.fixture
async def provider(issuer: Issuer) -> AsyncIterator[Provider]:
    app, made = web.Application(), Provider(issuer)
    app.router.add_get("/{path:.*}", made.answer)
    async with TestServer(app) as server:
        made.base = made.metadata["issuer"] = str(server.make_url("/")).rstrip("/")
        yield made


async def discover(following: Subscription, issuer: str) -> list[str]:
    """Have the key set found by the metadata of an issuer; return what `/readyz` says of it."""
    following.sets.follow([(Source("", discover_from=issuer), following.ring)])
    await following.fetch(0)
    return list(following.sets.warnings())


async def test_the_key_set_is_found_by_the_metadata_of_the_issuer(following: Subscription, provider: Provider) -> None:
    assert not await discover(following, provider.base)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"
    await following.fetch(600)
    assert provider.asked == [provider.at], "the metadata is asked for once an hour"
    await following.fetch(3600)
    assert provider.asked == [provider.at] * 2


@pytest.mark.parametrize("path", ["", "/realm", "/realm/", "/a/b"])
@pytest.mark.parametrize(
    "where", ["{path}/.well-known/openid-configuration", "/.well-known/oauth-authorization-server{path}"]
)
async def test_metadata_is_looked_for_where_either_standard_has_it(
    following: Subscription, provider: Provider, path: str, where: str
) -> None:
    issuer = provider.metadata["issuer"] = provider.base + path
    provider.at = where.format(path=path.rstrip("/"))
    assert not await discover(following, issuer)
    assert verdict(following.ring, sign(RSA, "r1")) == "alice"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"issuer": "https://other.example"}, "the issuer of the metadata differs from jwt.issuer"),
        ({"issuer": None}, "the issuer of the metadata differs from jwt.issuer"),
        ({"jwks_uri": None}, "has no jwks_uri"),
        ({"jwks_uri": "file:///etc/passwd"}, "has no jwks_uri"),
        ({"jwks_uri": ["https://a.example"]}, "has no jwks_uri"),
    ],
)
async def test_metadata_that_is_not_the_issuers_is_not_used(
    following: Subscription, provider: Provider, changed: dict[str, Any], why: str
) -> None:
    provider.metadata |= changed
    [warning] = await discover(following, provider.base)
    assert why in warning
    assert verdict(following.ring, sign(RSA, "r1")) == "KeysUnavailable"


async def test_a_slash_at_the_end_makes_another_issuer(following: Subscription, provider: Provider) -> None:
    [warning] = await discover(following, f"{provider.base}/")
    assert "both must be exactly the same text" in warning


async def test_after_a_failure_the_metadata_is_asked_again(following: Subscription, provider: Provider) -> None:
    assert not await discover(following, provider.base)
    provider.keys.status = 404
    await following.fetch(600)
    provider.keys.status = 200
    await following.fetch(10)
    assert provider.asked == [provider.at] * 2
    assert not list(following.sets.warnings())


async def test_of_several_issuers_the_log_and_readyz_name_the_one_that_fails(
    issuer: Issuer, following: Subscription
) -> None:
    good, bad = (KeyRing("acme", [], ClaimRules("acme", issuer=f"https://{name}.example")) for name in ("a", "b"))
    following.sets.follow([(Source(issuer.url), good), (Source("http://127.0.0.1:1/"), bad)])
    with capture_logs() as logs:
        following.sets.refresh()
        for ring in (good, bad):
            await following.sets.refetch(UnknownKey("", ring))
    levels = {line["issuer"]: line["log_level"] for line in logs if "fetched" in line["event"]}
    assert levels == {"https://a.example": "info", "https://b.example": "warning"}
    [warning] = following.sets.warnings()
    assert warning.startswith("the key set of tenant acme (https://b.example) could not be fetched")
    following.sets.follow([(Source(issuer.url), good)])
    token = jwt.encode({"iss": "https://a.example", "sub": "alice", "exp": NOW + 60}, RSA, algorithm="RS256")
    assert verdict(good, token) == "alice", "its keys stay when another source goes"
