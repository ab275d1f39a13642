"""One fetch of a key set over HTTP: redirects, what the cache of the service already holds, and sizes."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from service import __version__

TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024
MAX_REDIRECTS = 3
MIN_AGE_S, MAX_AGE_S = 60.0, 3600.0
"""The bounds of `Cache-Control: max-age`, in seconds."""
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a fetch."""

    raw: bytes | None
    """None: what was fetched before still holds (304)."""
    etag: str | None
    max_age_s: float | None
    """`max-age` of the answer, in seconds, within bounds; None: the answer has none."""


class FetchFailed(Exception):
    """The answer is not the document; the message says what it is."""


class Fetcher:
    """Fetches documents; keeps connections between fetches. Follows `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.

    Args:
        make_connector: makes the connector of the connections, within the event loop; None: aiohttp's own.
    """

    def __init__(self, make_connector: Callable[[], aiohttp.BaseConnector] | None = None) -> None:
        self._make_connector = make_connector
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, url: str, etag: str | None = None) -> Answer:
        """Fetch a document.

        Args:
            url: where it is. Up to three redirects are followed, within https alone.
            etag: of the document that is held already (RFC 9110, section 13.1.2).

        Raises:
            FetchFailed: another status than 200, too many redirects, or too many bytes.
            TimeoutError, aiohttp.ClientError: no answer.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=None if self._make_connector is None else self._make_connector(),
                trust_env=True,
                headers={"user-agent": f"rollcall/{__version__}", "accept": "application/json, */*;q=0.1"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {} if etag is None else {"if-none-match": etag}
        target = URL(url)
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(MAX_REDIRECTS + 1):
                async with self._session.get(target, headers=headers, allow_redirects=False) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        target = _redirected(response)
                        continue
                    return await _read(response, etag)
        raise FetchFailed(f"it redirects more than {MAX_REDIRECTS} times")


async def discovered(fetcher: Fetcher, issuer: str) -> str:
    """Return the URL of the issuer's key set, as its metadata names it.

    Asks as OpenID Connect Discovery 1.0 (section 4) says, and where nothing is there as RFC 8414 (section 3) does.

    Raises:
        FetchFailed: there is no metadata, it is another issuer's, or it names no key set that may be fetched.
        TimeoutError, aiohttp.ClientError: no answer.
    """
    url = URL(issuer)
    openid = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    oauth = str(url.with_path(f"/.well-known/oauth-authorization-server{url.path.rstrip('/')}"))
    try:
        raw = (await fetcher.get(openid)).raw
    except FetchFailed as error:
        try:
            raw = (await fetcher.get(oauth)).raw
        except FetchFailed:
            raise FetchFailed(f"the issuer's metadata: {error}") from None
    try:
        metadata = json.loads(raw or b"")
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise FetchFailed("the issuer's metadata is not a JSON object")
    if metadata.get("issuer") != issuer:  # OpenID Connect Discovery 1.0, section 4.3; RFC 8414, section 3.3
        raise FetchFailed("the issuer of the metadata differs from jwt.issuer; both must be exactly the same text")
    found = metadata.get("jwks_uri")
    if not isinstance(found, str) or not found.startswith(("https://", f"{url.scheme}://")):
        raise FetchFailed(f"the issuer's metadata has no jwks_uri that is an {url.scheme} URL")
    return found


def _redirected(response: aiohttp.ClientResponse) -> URL:
    """Return the target of a redirect. Over http an attacker on the network could redirect to keys of its own."""
    try:
        target = response.url.join(URL(response.headers.get("location", "")))
    except ValueError:
        raise FetchFailed("it redirects to something that is not a URL") from None
    if response.url.scheme != "https" or target.scheme != "https":
        raise FetchFailed(f"it answered {response.status}; a redirect must lead from https to https")
    return target


async def _read(response: aiohttp.ClientResponse, etag: str | None) -> Answer:
    said = _MAX_AGE.search(response.headers.get("cache-control", ""))
    max_age_s = None if said is None else min(max(float(said[1]), MIN_AGE_S), MAX_AGE_S)
    if response.status == 304 and etag is not None:
        return Answer(None, response.headers.get("etag", etag), max_age_s)
    if response.status != 200:
        raise FetchFailed(f"it answered {response.status}")
    raw = await response.content.read(MAX_BYTES + 1)
    while len(raw) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
        raw += more
    if len(raw) > MAX_BYTES:
        raise FetchFailed(f"it is larger than {MAX_BYTES} bytes")
    return Answer(raw, response.headers.get("etag"), max_age_s)
