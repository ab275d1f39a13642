"""Chromium runs the snippets of the page on the use from a browser, against a service of another origin."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page

from tests.browser.conftest import launched
from tests.docs.pages import blocks
from tests.kit import ROOT, TENANT_TOKEN, Service, config, credentials, free_port, sign, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SNIPPETS = [one for one in blocks(ROOT / "docs" / "how-to" / "use-from-a-browser.md", "js") if "import" not in one]
"""All but the one that needs a library of npm, which `make clients` runs."""
FOR_THE_TEST = """
function show(status) { fetch("/shown", {method: "POST", body: status}); }
window.page = {readStatus, logOut, call, has: (given) => { token = given; }, token: () => token};
"""


class Site:
    """A site of one page, whose module is the snippets, and what the page says that it shows."""

    def __init__(self) -> None:
        self.port, self.public_port = free_port(), free_port()
        self.origin, self.public_origin = (f"http://127.0.0.1:{port}" for port in (self.port, self.public_port))
        self.insecure_origin = f"http://app.example:{self.public_port}"
        self.shown: asyncio.Queue[str] = asyncio.Queue()
        self.script = ""

    def calls(self, service: Service) -> None:
        """Let the page call `service`."""
        text = "\n".join(SNIPPETS)
        for written, own in (
            ('"https://auth.example.com"', json.dumps(f"http://127.0.0.1:{service.port}")),
            ('"demo-tenant-token"', json.dumps(TENANT_TOKEN)),
        ):
            assert text.count(written) == 1
            text = text.replace(written, own)
        self.script = text + FOR_THE_TEST

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/page", self._page)
        app.router.add_get("/elsewhere", self._elsewhere)
        app.router.add_post("/shown", self._show)
        return app

    async def _page(self, _: web.Request) -> web.Response:
        text = f'<!doctype html><title>page</title><script type="module">{self.script}</script>'
        return web.Response(text=text, content_type="text/html")

    async def _elsewhere(self, _: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>elsewhere</title>", content_type="text/html")

    async def _show(self, request: web.Request) -> web.Response:
        self.shown.put_nowait(await request.text())
        return web.Response(status=204)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    made = Site()
    servers = [TestServer(made.application(), port=port) for port in (made.port, made.public_port)]
    for server in servers:
        await server.start_server()
    yield made
    for server in servers:
        await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(site: Site) -> AsyncIterator[Service]:
    """One for all tests: each has a user of its own."""
    with tempfile.TemporaryDirectory(prefix="rollcall-test-", dir="/tmp") as folder:
        origins = [site.origin, site.public_origin, site.insecure_origin]
        made = Service(Path(folder), config(server={"cors_origins": origins}, redis={"timeout": 5}))
        try:
            site.calls(await asyncio.to_thread(made.wait_until_ready))
            yield made
        finally:
            made.end()


async def opened(browser: Browser, origin: str, user: str, **claims: Any) -> Page:
    """The page, with a token of `user`."""
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{origin}/page")
    await page.evaluate("token => page.has(token)", sign(user, **claims))
    return page


def status_of(service: Service, user: str) -> Any:
    return service.get("/auth/status", credentials(user) | {"x-passive": "true"}).data["status"]


async def becomes(service: Service, user: str, status: str) -> None:
    """Wait until the user has this status."""
    await asyncio.to_thread(wait_for, lambda: status_of(service, user) == status)


def log_in(service: Service, user: str) -> None:
    assert service.get("/auth/status", credentials(user)).data["status"] == "logged_in"


async def test_the_status_is_read_without_a_trace_and_the_limit_headers_can_be_read(
    browser: Browser, site: Site, service: Service
) -> None:
    page = await opened(browser, site.origin, "ann")
    assert await page.evaluate("page.readStatus()") == "none"
    log_in(service, "ann")
    assert await page.evaluate("page.readStatus()") == "logged_in"
    names = ["ratelimit", "x-ratelimit-remaining", "x-request-id"]
    read = "async names => { const a = await page.call('/auth/status'); return names.map(n => a.headers.get(n)); }"
    assert None not in await page.evaluate(read, names)


async def test_a_status_query_that_is_not_passive_logs_in_again(browser: Browser, site: Site, service: Service) -> None:
    page = await opened(browser, site.origin, "ben")
    log_in(service, "ben")
    assert (await page.evaluate("page.call('/auth/logout', {method: 'POST'}).then(a => a.status)")) == 200
    assert await page.evaluate("page.readStatus()") == "logged_out"
    await page.evaluate("page.call('/auth/status').then(a => a.status)")
    assert await page.evaluate("page.readStatus()") == "logged_in"


async def test_a_logout_takes_the_token_out_of_use_and_is_recorded(
    browser: Browser, site: Site, service: Service
) -> None:
    page = await opened(browser, site.origin, "cleo")
    log_in(service, "cleo")
    assert await page.evaluate("page.logOut()") is True
    assert await page.evaluate("page.token()") is None
    assert status_of(service, "cleo") == "logged_out"


async def test_a_logout_that_fails_keeps_the_token_and_one_with_an_expired_token_does_not(
    browser: Browser, site: Site, service: Service
) -> None:
    page = await opened(browser, site.origin, "dora")
    refused = "fetch = async () => new Response('', {status: 429}); page.logOut()"
    assert await page.evaluate(refused) is False
    assert await page.evaluate("page.token()") is not None
    failed = "fetch = async () => { throw new TypeError('Failed to fetch'); }; page.logOut()"
    assert await page.evaluate(failed) is False
    assert await page.evaluate("page.token()") is not None
    page = await opened(browser, site.origin, "dora", exp=1)
    assert await page.evaluate("page.logOut()") is True
    assert await page.evaluate("page.token()") is None


async def test_a_page_that_goes_away_logs_out_by_keepalive(browser: Browser, site: Site, service: Service) -> None:
    log_in(service, "eli")
    page = await opened(browser, site.origin, "eli")
    await page.goto(f"{site.origin}/elsewhere")  # without the back/forward cache: it is not persisted
    await becomes(service, "eli", "logged_out")


async def test_a_beacon_carries_no_credentials(browser: Browser, site: Site, service: Service) -> None:
    log_in(service, "gus")
    page = await opened(browser, site.origin, "gus")
    url = f"http://127.0.0.1:{service.port}/auth/logout"
    async with page.expect_response("**/auth/logout") as answered:
        assert await page.evaluate("url => navigator.sendBeacon(url)", url) is True
    assert (await answered.value).status == 401
    assert status_of(service, "gus") == "logged_in"


async def test_a_browser_that_is_killed_sends_nothing(site: Site, service: Service) -> None:
    log_in(service, "hal")
    async with launched() as browser:
        await opened(browser, site.origin, "hal")
        gone = asyncio.Event()
        browser.on("disconnected", lambda _: gone.set())
        session = await browser.new_browser_cdp_session()
        processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
        [pid] = [one["id"] for one in processes if one["type"] == "browser"]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(45):
            await gone.wait()
    assert status_of(service, "hal") == "logged_in"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ordinary(site: Site) -> AsyncIterator[Browser]:
    """A Chromium that keeps pages for the way back, and takes one address of the site for a public one."""
    flags = (
        f"--ip-address-space-overrides=127.0.0.1:{site.public_port}=public",
        "--host-resolver-rules=MAP app.example 127.0.0.1",
    )
    async with launched(*flags, without=["--disable-back-forward-cache"]) as made:
        yield made


async def test_a_page_that_comes_back_from_the_cache_asks_for_the_status(
    ordinary: Browser, site: Site, service: Service
) -> None:
    log_in(service, "ida")
    page = await opened(ordinary, site.origin, "ida")
    await page.goto(f"{site.origin}/elsewhere")
    assert status_of(service, "ida") == "logged_in", "a page that is kept has not ended"
    assert service.get("/auth/logout", credentials("ida")).status == 200
    await page.evaluate("history.back()")
    async with asyncio.timeout(45):
        assert await site.shown.get() == "logged_out"
    assert status_of(service, "ida") == "logged_out"


async def test_a_public_page_needs_permission_to_call_a_service_at_a_loopback_address(
    ordinary: Browser, site: Site, service: Service
) -> None:
    page = await opened(ordinary, site.public_origin, "jon")
    before = len(service.log_text)
    assert await page.evaluate("page.readStatus().catch(error => error.name)") == "TypeError"
    assert "preflight" not in service.log_text[before:]
    await page.context.grant_permissions(["local-network-access"])
    assert await page.evaluate("page.readStatus().catch(error => error.name)") == "none"


async def test_a_public_page_without_https_cannot_get_that_permission(
    ordinary: Browser, site: Site, service: Service
) -> None:
    page = await opened(ordinary, site.insecure_origin, "kim")
    await page.context.grant_permissions(["local-network-access"])
    assert await page.evaluate("[isSecureContext, location.protocol]") == [False, "http:"]
    assert await page.evaluate("page.readStatus().catch(error => error.name)") == "TypeError"
