"""Remote key sets (RFC 7517): when they are fetched, and how long what was fetched is used.

A successful fetch replaces all keys, even by a set in which none can be used: a key that the issuer withdraws verifies
nothing any more. Only a failed fetch keeps the old keys, and for no longer than `jwt.jwks_max_age`.

Requests never wait for a regular fetch. If no key verifies a token, the request waits up to a second for a fetch, which
all such requests share. These fetches have a budget, so that made-up tokens cause the issuer little load. The period of
the budget is short, so that they cannot delay a rotation. Regular fetches, and those after a SIGHUP, do not count.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from service.background.key_set_fetching import Fetcher, FetchFailed, discovered
from service.core.errors import KeysUnavailable, UnknownKey
from service.core.tasks import round_completed
from service.core.tokens.key_sets import KeyRules, read_key_set
from service.core.tokens.keys import Key
from service.core.tokens.verification import KeyRing, RemoteKeys

log = structlog.get_logger()

EVERY_S = 600.0
"""Between regular fetches, unless the issuer's `Cache-Control: max-age` says otherwise."""
RETRY_S = float(KeysUnavailable.retry_after_s)
"""Seconds after a failed fetch until the next one begins."""
BUDGET_S = 6.0
"""Tokens with an unknown `kid` cause one fetch in so many seconds; tokens that a held key does not verify, another."""
WITHOUT_KEYS_S = 0.5
"""Seconds between the beginnings of two fetches that requests cause, while there is no key set."""
WAIT_S = 1.0
"""How long a request waits for the keys."""
MAX_AGE_S = 86_400.0
DISCOVERED_FOR_S = 3600.0
"""How long the URL that an issuer's metadata names is used, while fetches from it succeed."""
MAX_LOGGED = 1000
"""How many sentences about keys that are not used are remembered, so that each is logged once."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tenant's JWKS URL, and how its keys are read."""

    url: str
    """Empty: the metadata of the issuer names it."""
    rules: KeyRules = field(default_factory=KeyRules)
    discover_from: str | None = None
    """The issuer whose metadata names the URL."""
    max_age_s: float = field(default=MAX_AGE_S, compare=False)
    """Seconds after the last successful fetch for which its keys are used, while further fetches fail."""


@dataclass(slots=True)
class _Remote:
    source: Source
    ring: KeyRing
    keys: tuple[Key, ...] = ()
    raw: bytes | None = None
    """The key set that was fetched; None: there is none."""
    etag: str | None = None
    every_s: float = EVERY_S
    began_at: float = float("-inf")
    """When the last fetch began, on the monotonic clock."""
    succeeded_at: float = float("-inf")
    """When the last successful fetch began: its keys are at least as young."""
    failure: str = ""
    """Why the last fetch failed; empty: it succeeded, or none has ended."""
    asked_at: dict[bool, float] = field(default_factory=dict)
    """When tokens last asked for a fetch: those that name an unknown key (True), and those that a held one fails."""
    fetch: asyncio.Task[None] | None = field(default=None, repr=False)
    again: bool = False
    """Fetch once more as soon as the fetch that is under way has ended."""
    found_url: str = ""
    """What the issuer's metadata named."""
    found_at: float = float("-inf")
    """When it did, on the monotonic clock."""
    logged: set[str] = field(default_factory=set, repr=False)
    """The sentences about keys of this set that were logged already."""

    @property
    def name(self) -> tuple[str, str]:
        """The tenant, with the issuer if one is configured: the name of this source."""
        return self.ring.tenant, self.ring.claims.issuer or ""

    @property
    def labels(self) -> dict[str, str]:
        """What a line of the log says of the source."""
        tenant, issuer = self.name
        return {"tenant": tenant, "issuer": issuer} if issuer else {"tenant": tenant}

    @property
    def state(self) -> RemoteKeys:
        if self.raw is None:
            return RemoteKeys.ABSENT
        return RemoteKeys.STALE if self.failure else RemoteKeys.CURRENT

    def hand_over(self) -> None:
        """Give the ring its current keys."""
        self.ring.replace_remote(self.keys, self.state)

    def not_logged(self, sentences: tuple[str, ...]) -> Iterator[str]:
        """Yield those of the sentences that were not logged yet."""
        if len(self.logged) > MAX_LOGGED:
            self.logged.clear()
        for sentence in sentences:
            if sentence not in self.logged:
                self.logged.add(sentence)
                yield sentence


def _nothing(*_: object) -> None:
    pass


class RemoteKeySets:
    """All tenants' JWKS URLs.

    Args:
        clock: monotonic, in seconds.
        on_fetch: is called after each fetch, with the tenant, whether it succeeded, and whether the last fetch of each
            of the tenant's sources did.
        on_forget: is called with a tenant whose URL is no longer followed.
        fetcher: fetches over HTTP.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_fetch: Callable[[str, bool, bool], None] = _nothing,
        on_forget: Callable[[str], None] = _nothing,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._remotes: dict[tuple[str, str], _Remote] = {}
        """By tenant and issuer."""
        self._by_ring: dict[int, _Remote] = {}
        self._fetcher = fetcher or Fetcher()
        self._clock = clock
        self._on_fetch = on_fetch
        self._on_forget = on_forget

    def follow(self, sources: Iterable[tuple[Source, KeyRing]]) -> None:
        """Follow these URLs, and no others. Keys already fetched from the same URL stay."""
        before, self._remotes = self._remotes, {}
        for source, ring in sources:
            made = _Remote(source, ring)
            remote = before.get(made.name)
            if remote is None or remote.source != source:
                remote = made
            else:
                del before[made.name]
                remote.source, remote.ring = source, ring
            remote.hand_over()
            self._remotes[made.name] = remote
        self._by_ring = {id(remote.ring): remote for remote in self._remotes.values()}
        followed = {tenant for tenant, _ in self._remotes}
        for (tenant, _), remote in before.items():
            if remote.fetch is not None:
                remote.fetch.cancel()
            if tenant not in followed:
                self._on_forget(tenant)

    def refresh(self) -> None:
        """Fetch all sets again. A fetch that is running may have read the old ones, so another follows it."""
        for remote in self._remotes.values():
            if remote.fetch is not None:
                remote.again = True
            else:
                self._start(remote)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each tenant whose key set is not as it should be, for `/readyz`."""
        for name, remote in self._remotes.items():
            tenant = self._described(name)
            age_s = self._clock() - remote.succeeded_at
            if remote.state is RemoteKeys.STALE:
                left_s = max(0, round(remote.source.max_age_s - age_s))
                kept = f"the keys fetched {age_s:.0f} s ago are used for up to {left_s} s more"
                yield f"the key set of tenant {tenant} could not be fetched ({remote.failure}); {kept}"
            elif remote.failure:
                why = f"the key set of tenant {tenant} could not be fetched ({remote.failure})"
                yield f"{why}; requests whose tokens need its keys are answered 503"
            elif remote.raw is not None and not remote.keys:
                yield f"the key set of tenant {tenant} has no usable key; its tokens are refused"

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
            await self._fetcher.close()

    def look_after(self) -> None:
        """Start the fetches that are due, and drop the keys that are too old."""
        now = self._clock()
        for remote in self._remotes.values():
            self._drop_too_old(remote)
            wait = remote.every_s if remote.state is RemoteKeys.CURRENT else RETRY_S
            if now - remote.began_at >= wait:
                self._start(remote)

    def may_refetch(self, error: UnknownKey | KeysUnavailable) -> bool:
        """Return whether the fetch that this error needs is running, or may begin."""
        remote = self._by_ring.get(id(error.ring))
        if remote is None:
            return False
        if remote.fetch is not None or remote.raw is None:
            return True
        return self._clock() - remote.asked_at.get(_is_announced(error), float("-inf")) >= BUDGET_S

    async def refetch(self, error: UnknownKey | KeysUnavailable) -> None:
        """Wait up to a second for fresh keys of the key set that this error's request needs.

        Return at once where the budget of such requests is used up.
        """
        remote = self._by_ring.get(id(error.ring))
        if remote is None or not self.may_refetch(error):
            return
        if remote.fetch is None and remote.raw is not None:
            remote.asked_at[_is_announced(error)] = self._clock()
        # Without keys every request asks. The issuer is asked again as soon as it may be back, and not in a tight loop.
        wait_s = 0.0 if remote.raw is not None else remote.began_at + WITHOUT_KEYS_S - self._clock()
        await asyncio.wait([self._start(remote, max(0.0, wait_s))], timeout=WAIT_S)

    def _start(self, remote: _Remote, delay_s: float = 0) -> asyncio.Task[None]:
        if remote.fetch is None:
            remote.began_at = self._clock() + delay_s
            remote.fetch = asyncio.create_task(self._fetch(remote, delay_s))
            remote.fetch.add_done_callback(lambda task: self._ended(remote, task))
        return remote.fetch

    def _ended(self, remote: _Remote, task: asyncio.Task[None]) -> None:
        remote.fetch = None
        again, remote.again = remote.again, False
        if again and not task.cancelled():
            self._start(remote)

    async def _fetch(self, remote: _Remote, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        try:
            answer = await self._fetcher.get(await self._url_of(remote), remote.etag)
            raw = remote.raw if answer.raw is None else answer.raw
            if raw is None:
                raise FetchFailed("it answered 304 to a first request")  # like all that it may answer
            if raw != remote.raw:
                self._take(remote, raw)
        except FetchFailed as error:
            self._failed(remote, str(error))
        except Exception as error:  # of any kind: the fetch has failed
            # Its text may contain the URL, and the URL a password.
            self._failed(remote, type(error).__name__)
        else:
            remote.etag, remote.every_s = answer.etag, answer.max_age_s or EVERY_S
            if remote.failure:
                log.info("jwks fetched again", **remote.labels)
            remote.failure, remote.succeeded_at = "", remote.began_at
            remote.hand_over()
            self._report(remote, True)

    async def _url_of(self, remote: _Remote) -> str:
        """Return the URL of the key set, from the issuer's metadata if that names it. Cache it for an hour."""
        if remote.source.discover_from is None:
            return remote.source.url
        now = self._clock()
        if remote.failure or now - remote.found_at > DISCOVERED_FOR_S:
            remote.found_url = await discovered(self._fetcher, remote.source.discover_from)
            remote.found_at = now
        return remote.found_url

    def _described(self, name: tuple[str, str]) -> str:
        """Describe a source for people: its tenant, and the issuer where the tenant has several sources."""
        tenant, issuer = name
        several = sum(1 for one, _ in self._remotes if one == tenant) > 1
        return f"{tenant} ({issuer})" if several else tenant

    def _report(self, remote: _Remote, succeeded: bool) -> None:
        """Report the fetch; a tenant with several sources is well when all are."""
        tenant = remote.ring.tenant
        failed = any(one.failure for one in self._remotes.values() if one.ring.tenant == tenant)
        self._on_fetch(tenant, succeeded, not failed)

    def _take(self, remote: _Remote, raw: bytes) -> None:
        """Read the keys of what was fetched.

        Raises:
            FetchFailed: it is not a JWK Set.
        """
        try:
            found = read_key_set(raw, remote.source.rules)
        except ValueError as error:
            raise FetchFailed(str(error)) from None
        remote.keys, remote.raw = found.keys, raw
        write = log.info if found.keys else log.warning
        write("jwks fetched", **remote.labels, keys=[_described(key) for key in found.keys])
        for sentence in remote.not_logged(found.skipped):
            log.warning("jwks key not used", **remote.labels, reason=sentence)
        for sentence in remote.not_logged(found.undecided):
            one = "if the issuer signs with one of these, set it: algorithms: [RS256]"
            log.warning("jwks key without alg", **remote.labels, reason=f"{sentence} are accepted; {one}")

    def _failed(self, remote: _Remote, reason: str) -> None:
        remote.failure = reason
        remote.hand_over()
        self._drop_too_old(remote)
        kept = "there are no keys" if remote.raw is None else "the keys stay"
        log.warning(f"jwks not fetched, {kept}", **remote.labels, reason=reason)
        self._report(remote, False)

    def _drop_too_old(self, remote: _Remote) -> None:
        if remote.state is RemoteKeys.STALE and self._clock() - remote.succeeded_at > remote.source.max_age_s:
            remote.keys, remote.raw, remote.etag = (), None, None
            remote.hand_over()
            log.error("jwks too old, its keys are dropped", **remote.labels, reason=remote.failure)


def _is_announced(error: UnknownKey | KeysUnavailable) -> bool:
    return error.is_announced if isinstance(error, UnknownKey) else True


def _described(key: Key) -> str:
    """Describe a key for the log: its `kid`, its algorithm, and its thumbprint (RFC 7638)."""
    return f"{key.kid or '-'} {key.alg} {key.thumbprint()}"
