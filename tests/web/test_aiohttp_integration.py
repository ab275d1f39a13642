"""The aiohttp middleware: a capability that a handler names is checked, in whatever form the handler comes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from service.integrations.aiohttp import capability, logout, session_middleware, status
from tests.kit import ROOT, config, credentials, free_port, redis_server, tenant, wait_for

Client = TestClient[web.Request, web.Application]


@capability("payments")
async def pay(_: web.Request) -> web.Response:
    return web.Response(text="paid")


@capability("payments")
class PayingView(web.View):
    async def post(self) -> web.Response:
        return web.Response(text="paid")


class ViewWithAMethod(web.View):
    async def get(self) -> web.Response:
        return web.Response(text="free")

    @capability("payments")
    async def post(self) -> web.Response:
        return web.Response(text="paid")


async def varying(_: web.Request) -> web.Response:
    return web.Response(text="by language", headers={"vary": "accept-language"})


AsyncHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def hiding(handler: AsyncHandler) -> AsyncHandler:
    async def wrapped(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    return wrapped


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "config.yaml"
    tenants = {"acme": tenant(restricted_capabilities=["payments"])}
    with redis_server() as url:
        path.write_text(json.dumps(config(redis={"url": url, "timeout": 5}, tenants=tenants)))
        yield path


@pytest.fixture
async def client(configured: Path) -> AsyncIterator[Client]:
    app = web.Application()
    app.middlewares.append(await asyncio.to_thread(session_middleware, app, configured))
    app.router.add_post("/function", pay)
    app.router.add_view("/view", PayingView)
    app.router.add_view("/method", ViewWithAMethod)
    app.router.add_post("/hidden", hiding(pay))
    app.router.add_get("/varying", varying)
    app.router.add_route("*", "/logout", logout)
    app.router.add_get("/status", status)
    async with TestClient(TestServer(app)) as made:
        yield made


@pytest.mark.real_redis
async def test_a_prefetched_logout_is_refused_without_effect_in_an_application_too(client: Client) -> None:
    await client.get("/status", headers=credentials())
    answer = await client.get("/logout", headers=credentials() | {"sec-purpose": "prefetch;prerender"})
    assert (answer.status, "RateLimit" in answer.headers) == (403, False)
    passive = await client.get("/status", headers=credentials() | {"x-passive": "true"})
    assert (await passive.json())["data"]["status"] == "logged_in"
    assert (await client.post("/logout", headers=credentials())).status == 200


@pytest.mark.real_redis
async def test_in_an_application_vary_names_the_credentials_beside_what_the_handler_names(client: Client) -> None:
    read = "x-tenant-token, x-token, authorization, x-passive"
    answer = await client.get("/varying", headers=credentials())
    assert ", ".join(answer.headers.getall("vary")) == f"accept-language, {read}"
    assert (await client.get("/varying")).headers.getall("vary") == [read], "a refusal"
    assert (await client.get("/status", headers=credentials())).headers.getall("vary") == [read]
    out = await client.post("/logout", headers=credentials())
    assert out.headers.getall("vary") == [f"{read}, sec-purpose"]


@pytest.mark.real_redis
async def test_in_an_application_x_passive_takes_no_other_value_either(client: Client) -> None:
    answer = await client.get("/varying", headers=credentials() | {"x-passive": "yes"})
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["/function", "/view", "/method"])
async def test_a_restricted_capability_is_refused_in_every_form_of_handler(client: Client, path: str) -> None:
    answer = await client.post(path, headers=credentials())
    assert answer.status == 403
    assert (await answer.json())["error"]["code"] == "RESTRICTED_CAPABILITY"


async def test_the_methods_of_a_view_that_name_no_capability_need_none(client: Client) -> None:
    answer = await client.get("/method", headers=credentials())
    assert (answer.status, await answer.text()) == (200, "free")


async def test_a_capability_that_another_decorator_hides_is_an_error_and_serves_nobody(client: Client) -> None:
    answer = await client.post("/hidden", headers=credentials())
    assert answer.status == 500
    assert "paid" not in await answer.text()


APPLICATION = """
import sys
import urllib.error
import urllib.request
from aiohttp import web
from service.integrations.aiohttp import session_middleware

async def hello(request):
    return web.Response(text="hello")

app = web.Application()
app.middlewares.append(session_middleware(app, sys.argv[1]))
app.router.add_get("/", hello)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
"""


def test_an_application_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    with redis_server() as url:
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(config(redis={"url": url, "timeout": 5})))
        port = free_port()
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION, str(path), str(port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        os.close(reader)

        def status(headers: dict[str, str]) -> int:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code
            except OSError:
                return 0

        try:
            wait_for(lambda: status(credentials()) == 200)
            assert status({}) == 401
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
