"""Remote key sets (RFC 7517): fetched at start and every ten minutes, on SIGHUP, and once more for an unknown `kid`.

What a successful fetch brings is the truth, also when nothing in it can be used: a key that the issuer withdraws
verifies nothing any more. Only a fetch that fails keeps the old keys, and no longer than `jwt.jwks_max_age`.

Requests never wait for a regular fetch. A request whose token names an unknown `kid` waits up to a second
for one refetch that all such requests share; after it a cool-down holds, so that made-up `kid`s cost the
other side nothing.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from service.core.errors import KeysUnavailable
from service.core.tasks import round_completed
from service.core.tokens.keys import ASYMMETRIC, Key, make_key
from service.core.tokens.verification import KeyRing, RemoteKeys

log = structlog.get_logger()

EVERY_S = 600.0
RETRY_S = float(KeysUnavailable.retry_after_s)
"""How long after a fetch that failed the next one begins."""
COOL_DOWN_S = 30.0
WAIT_S = 1.0
"""How long a request waits for the keys."""
FETCH_TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024
MAX_AGE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Source:
    """A tenant's JWKS URL, and how its keys are read."""

    url: str
    alg: str
    """The algorithm of keys that name none."""
    max_age_s: float = field(default=MAX_AGE_S, compare=False)
    """How long after the last fetch that succeeded its keys are used, while further ones fail."""


@dataclass(slots=True)
class _Remote:
    source: Source
    ring: KeyRing
    keys: tuple[Key, ...] = ()
    raw: bytes | None = None
    """What the keys were read from; None: there is nothing to judge by."""
    began_at: float = float("-inf")
    """When the last fetch began, on the monotonic clock."""
    succeeded_at: float = float("-inf")
    """When the last fetch that succeeded began: what it brought is at least as young."""
    failure: str = ""
    """Why the last fetch failed; empty where it succeeded, or none has ended."""
    refetched_at: float = float("-inf")
    """When an unknown `kid` last asked for one: the cool-down counts from here, not from a regular fetch."""
    fetch: asyncio.Task[None] | None = field(default=None, repr=False)
    again: bool = False
    """Fetch once more as soon as the fetch that is under way has ended."""

    @property
    def state(self) -> RemoteKeys:
        if self.raw is None:
            return RemoteKeys.ABSENT
        return RemoteKeys.STALE if self.failure else RemoteKeys.CURRENT

    def hand_over(self) -> None:
        """Tell the ring what holds now."""
        self.ring.replace_remote(self.keys, self.state)


def _nothing(*_: object) -> None:
    pass


class RemoteKeySets:
    """All tenants' JWKS URLs.

    Args:
        clock: monotonic, in seconds.
        on_fetch: is called with the tenant and whether the fetch succeeded, after each one.
        on_forget: is called with a tenant whose URL is no longer followed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_fetch: Callable[[str, bool], None] = _nothing,
        on_forget: Callable[[str], None] = _nothing,
    ) -> None:
        self._remotes: dict[str, _Remote] = {}
        self._session: aiohttp.ClientSession | None = None
        self._clock = clock
        self._on_fetch = on_fetch
        self._on_forget = on_forget

    def follow(self, rings: Mapping[str, tuple[Source, KeyRing]]) -> None:
        """Follow these tenants' URLs, and no others. Keys already fetched from the same URL stay."""
        before, self._remotes = self._remotes, {}
        for tenant, (source, ring) in rings.items():
            remote = before.get(tenant)
            if remote is None or remote.source != source:
                remote = _Remote(source, ring)
            else:
                del before[tenant]
                remote.source, remote.ring = source, ring
            remote.hand_over()
            self._remotes[tenant] = remote
        for tenant, remote in before.items():
            if remote.fetch is not None:
                remote.fetch.cancel()
            if tenant not in self._remotes:
                self._on_forget(tenant)

    def refresh(self) -> None:
        """Fetch all sets anew. A fetch that is under way may have seen the old ones: another follows it."""
        for remote in self._remotes.values():
            if remote.fetch is not None:
                remote.again = True
            else:
                self._start(remote)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each tenant whose key set is not as it should be, for `/readyz`."""
        for tenant, remote in self._remotes.items():
            age_s = self._clock() - remote.succeeded_at
            if remote.state is RemoteKeys.STALE:
                left_s = max(0, round(remote.source.max_age_s - age_s))
                kept = f"the keys fetched {age_s:.0f} s ago are used for up to {left_s} s more"
                yield f"the key set of tenant {tenant} could not be fetched ({remote.failure}); {kept}"
            elif remote.failure:
                why = f"the key set of tenant {tenant} could not be fetched ({remote.failure})"
                yield f"{why}; requests whose tokens need its keys are answered 503"
            elif remote.raw is not None and not remote.keys:
                yield f"the key set of tenant {tenant} holds no key that can be used; its tokens are refused"

    async def run_forever(self) -> None:
        """Fetch what is due, until cancelled."""
        try:
            while True:
                self.look_after()
                round_completed()
                await asyncio.sleep(1)
        finally:
            for remote in self._remotes.values():
                if remote.fetch is not None:
                    remote.fetch.cancel()
            if self._session is not None:
                await self._session.close()
                self._session = None

    def look_after(self) -> None:
        """Start the fetches that are due, and drop the keys that are too old."""
        now = self._clock()
        for remote in self._remotes.values():
            self._drop_too_old(remote)
            wait = EVERY_S if remote.state is RemoteKeys.CURRENT else RETRY_S
            if now - remote.began_at >= wait:
                self._start(remote)

    async def refetch(self, tenant: str) -> None:
        """Wait up to a second for fresh keys of `tenant`; at once where the cool-down holds."""
        remote = self._remotes.get(tenant)
        if remote is None:
            return
        if remote.fetch is None:
            now = self._clock()
            if now - remote.refetched_at < COOL_DOWN_S:
                return
            remote.refetched_at = now
        await asyncio.wait([self._start(remote)], timeout=WAIT_S)

    def _start(self, remote: _Remote) -> asyncio.Task[None]:
        if remote.fetch is None:
            remote.began_at = self._clock()
            remote.fetch = asyncio.create_task(self._fetch(remote))
            remote.fetch.add_done_callback(lambda task: self._ended(remote, task))
        return remote.fetch

    def _ended(self, remote: _Remote, task: asyncio.Task[None]) -> None:
        remote.fetch = None
        again, remote.again = remote.again, False
        if again and not task.cancelled():
            self._start(remote)

    async def _fetch(self, remote: _Remote) -> None:
        tenant = remote.ring.tenant
        try:
            raw = await self._get(remote.source.url)
            keys = remote.keys if raw == remote.raw else read_key_set(raw, remote.source.alg)
        except ValueError as error:
            self._failed(remote, str(error))
        except Exception as error:  # whatever it is, the fetch has failed
            # Its text may hold the URL, and that a password.
            self._failed(remote, type(error).__name__)
        else:
            remarkable = raw != remote.raw or bool(remote.failure)
            remote.keys, remote.raw, remote.failure, remote.succeeded_at = keys, raw, "", remote.began_at
            remote.hand_over()
            if remarkable:
                write = log.info if keys else log.warning
                write("jwks fetched", tenant=tenant, keys=[key.kid for key in keys])
            self._on_fetch(tenant, True)

    def _failed(self, remote: _Remote, reason: str) -> None:
        remote.failure = reason
        remote.hand_over()
        self._drop_too_old(remote)
        kept = "there are no keys" if remote.raw is None else "the keys stay"
        log.warning(f"jwks not fetched, {kept}", tenant=remote.ring.tenant, reason=reason)
        self._on_fetch(remote.ring.tenant, False)

    def _drop_too_old(self, remote: _Remote) -> None:
        if remote.state is RemoteKeys.STALE and self._clock() - remote.succeeded_at > remote.source.max_age_s:
            remote.keys, remote.raw = (), None
            remote.hand_over()
            log.error("jwks too old, its keys are dropped", tenant=remote.ring.tenant, reason=remote.failure)

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
    """The keys of a JWK Set that can verify, perhaps none; the others are skipped, as RFC 7517, section 5 asks.

    Symmetric keys are never taken from a URL.

    Raises:
        ValueError: this is not a JWK Set.
    """
    try:
        members = json.loads(raw)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("this is not a JWK Set") from error
    if not isinstance(members, list):
        raise ValueError("this is not a JWK Set")
    return tuple(key for member in members if (key := _read_key(member, default_alg)) is not None)


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
