"""Fetching a key set over HTTP: redirects, proxies, and what the request says of itself."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from service import __version__
from service.background.key_set_fetching import Fetcher, FetchFailed

AUTHORITY = trustme.CA()


class Site:
    """A server whose paths `/1`, `/2`, … each redirect to the one before; `/0` holds the document."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.elsewhere = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if request.path == "/elsewhere":
            raise web.HTTPFound(self.elsewhere)
        number = int(request.path.removeprefix("/"))
        if number:
            return web.Response(status=(301, 302, 303, 307, 308)[number % 5], headers={"location": str(number - 1)})
        return web.Response(body=b"document")

    @asynccontextmanager
    async def serve(self, *, tls: bool) -> AsyncIterator[TestServer]:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
        app = web.Application()
        app.router.add_get("/{path}", self.answer)
        server = TestServer(app, scheme="https" if tls else "http")
        await server.start_server(ssl=context)
        try:
            yield server
        finally:
            await server.close()


@pytest.fixture
def trusting() -> Fetcher:
    """Trusts the certificates of this test's authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return Fetcher(lambda: aiohttp.TCPConnector(ssl=context))


@pytest.mark.parametrize("redirects", range(5))
async def test_three_redirects_within_https_are_followed(trusting: Fetcher, redirects: int) -> None:
    site = Site()
    async with site.serve(tls=True) as server:
        url = str(server.make_url(f"/{redirects}"))
        if redirects <= 3:
            assert (await trusting.get(url)).raw == b"document"
        else:
            with pytest.raises(FetchFailed, match="it redirects more than 3 times"):
                await trusting.get(url)
        await trusting.close()
    assert len(site.asked) == min(redirects, 3) + 1


async def test_a_redirect_out_of_https_or_without_it_is_not_followed(trusting: Fetcher) -> None:
    secure, plain = Site(), Site()
    async with secure.serve(tls=True) as one, plain.serve(tls=False) as other:
        secure.elsewhere = str(other.make_url("/0"))
        plain.elsewhere = str(one.make_url("/0"))
        for url in (one.make_url("/elsewhere"), other.make_url("/elsewhere"), other.make_url("/1")):
            with pytest.raises(FetchFailed, match="a redirect must lead from https to https"):
                await trusting.get(str(url))
        await trusting.close()
    assert [request.path for request in (*secure.asked, *plain.asked)] == ["/elsewhere", "/elsewhere", "/1"]


@pytest.mark.parametrize("location", ["", "http://[", "https:///", "javascript:alert(1)"])
async def test_a_redirect_to_nowhere_is_a_failure(trusting: Fetcher, location: str) -> None:
    site = Site()
    site.elsewhere = location or "/elsewhere"
    async with site.serve(tls=True) as server:
        with pytest.raises((FetchFailed, aiohttp.ClientError)):
            await trusting.get(str(server.make_url("/elsewhere")))
        await trusting.close()


async def test_a_request_says_which_service_and_version_asks() -> None:
    site, fetcher = Site(), Fetcher()
    async with site.serve(tls=False) as server:
        await fetcher.get(str(server.make_url("/0")))
        await fetcher.close()
    assert site.asked[0].headers["user-agent"] == f"rollcall/{__version__}"


@pytest.mark.parametrize("excepted", [True, False])
async def test_proxies_of_the_environment_are_used_except_where_it_excepts_a_host(
    monkeypatch: pytest.MonkeyPatch, excepted: bool
) -> None:
    site, proxy, fetcher = Site(), Site(), Fetcher()
    async with site.serve(tls=False) as server, proxy.serve(tls=False) as between:
        monkeypatch.setenv("http_proxy", str(between.make_url("/")))
        monkeypatch.setenv("no_proxy", "127.0.0.1" if excepted else "elsewhere.example")
        assert (await fetcher.get(str(server.make_url("/0")))).raw == b"document"
        await fetcher.close()
    assert (len(site.asked), len(proxy.asked)) == ((1, 0) if excepted else (0, 1))
