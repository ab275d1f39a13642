"""Remote key sets (RFC 7517): fetched at start and every ten minutes, and once more for an unknown `kid`.

Requests never wait for a regular fetch. A request whose token names an unknown `kid` waits up to a second
for one refetch that all such requests share; after it a cool-down holds, so that made-up `kid`s cost the
other side nothing. A URL that fails leaves the keys that were there.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from service.core.tasks import round_completed
from service.core.tokens import ASYMMETRIC, Key, KeyRing, make_key

log = structlog.get_logger()

EVERY_S = 600.0
COOL_DOWN_S = 30.0
WAIT_S = 1.0
"""How long a request waits for the keys."""
FETCH_TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """A tenant's JWKS URL, and the algorithm of its keys that name none."""

    url: str
    alg: str


@dataclass(slots=True)
class _Remote:
    source: Source
    ring: KeyRing
    keys: tuple[Key, ...] = ()
    raw: bytes = b""
    fetched_at: float = float("-inf")
    """When the last fetch began, on the monotonic clock."""
    refetched_at: float = float("-inf")
    """When an unknown `kid` last asked for one: the cool-down counts from here, not from a regular fetch."""
    fetch: asyncio.Task[None] | None = field(default=None, repr=False)


class RemoteKeySets:
    """All tenants' JWKS URLs."""

    def __init__(self) -> None:
        self._remotes: dict[str, _Remote] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, rings: Mapping[str, tuple[Source, KeyRing]]) -> None:
        """Follow these tenants' URLs, and no others. Keys already fetched from the same URL stay."""
        before, self._remotes = self._remotes, {}
        for tenant, (source, ring) in rings.items():
            remote = before.pop(tenant, None)
            if remote is None or remote.source != source:
                self._remotes[tenant] = _Remote(source, ring)
                continue
            remote.ring = ring
            ring.replace_remote(remote.keys)
            self._remotes[tenant] = remote

    async def run_forever(self) -> None:
        """Fetch what is due, until cancelled."""
        try:
            while True:
                now = time.monotonic()
                for remote in list(self._remotes.values()):
                    wait = EVERY_S if remote.keys else COOL_DOWN_S
                    if now - remote.fetched_at >= wait:
                        self._start(remote)
                round_completed()
                await asyncio.sleep(1)
        finally:
            if self._session is not None:
                await self._session.close()

    async def refetch(self, tenant: str) -> None:
        """Wait up to a second for fresh keys of `tenant`; at once where the cool-down holds."""
        remote = self._remotes.get(tenant)
        if remote is None:
            return
        if remote.fetch is None:
            now = time.monotonic()
            if now - remote.refetched_at < COOL_DOWN_S:
                return
            remote.refetched_at = now
        await asyncio.wait([self._start(remote)], timeout=WAIT_S)

    def _start(self, remote: _Remote) -> asyncio.Task[None]:
        if remote.fetch is None:
            remote.fetched_at = time.monotonic()
            remote.fetch = asyncio.create_task(self._fetch(remote))
        return remote.fetch

    async def _fetch(self, remote: _Remote) -> None:
        try:
            raw = await self._get(remote.source.url)
            if raw != remote.raw:
                remote.keys = read_key_set(raw, remote.source.alg)
                remote.raw = raw
                remote.ring.replace_remote(remote.keys)
                log.info("jwks fetched", tenant=remote.ring.tenant, keys=[key.kid for key in remote.keys])
        except (aiohttp.ClientError, TimeoutError) as error:
            # Its text may hold the URL, and that a password.
            log.warning("jwks not fetched, the keys stay", tenant=remote.ring.tenant, reason=type(error).__name__)
        except ValueError as error:
            log.warning("jwks not fetched, the keys stay", tenant=remote.ring.tenant, reason=str(error))
        finally:
            remote.fetch = None

    async def _get(self, url: str) -> bytes:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout)
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            raw = await response.content.read(MAX_BYTES + 1)
            while len(raw) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                raw += more
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
        return raw


def read_key_set(raw: bytes, default_alg: str) -> tuple[Key, ...]:
    """The keys of a JWK Set that can verify; the others are skipped, as RFC 7517, section 5 asks.

    Symmetric keys are never taken from a URL.

    Raises:
        ValueError: this is not a JWK Set, or holds no key that can be used.
    """
    try:
        members = json.loads(raw)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("this is not a JWK Set") from error
    if not isinstance(members, list):
        raise ValueError("this is not a JWK Set")
    keys = [key for member in members if (key := _read_key(member, default_alg)) is not None]
    if not keys:
        raise ValueError("it holds no key that can be used")
    return tuple(keys)


def _read_key(member: Any, default_alg: str) -> Key | None:
    if not isinstance(member, dict) or member.get("kty") == "oct" or member.get("use", "sig") != "sig":
        return None
    kid, alg = member.get("kid"), member.get("alg", default_alg)
    if not isinstance(alg, str) or alg not in ASYMMETRIC or not isinstance(kid, str | None):
        return None
    public = {name: value for name, value in member.items() if name not in _PRIVATE}
    try:
        return make_key(kid, alg, public)
    except ValueError:
        return None


_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
