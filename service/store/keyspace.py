"""The keys in Redis: their types, units and lifetimes.

All keys of a tenant carry the hash tag `{tenant}`, so that on a Cluster they are in one slot and can be read and
written together. A tenant's name cannot contain a brace, and free text (user, address) comes last in a key. So nothing
that a user sends moves a key to another slot or tenant.

| key | type | holds | ends |
|---|---|---|---|
| `rc:{T}:u:USER` | string | status, previous, since, seen, expires, in ms | the sweep, after `sessions.retention` |
| `rc:{T}:by:STATUS` | sorted set | user → last seen, ms | with its last member |
| `rc:{T}:expiring` | sorted set | every user → latest token expiry, ms; behind `ENDED`, `KEPT` | with its last member |
| `rc:{T}:ending` | sorted set | an earlier version's: logged-out or expired user → expiry, ms | the sweep moves all |
| `rc:{T}:w:LIMIT:SUBJECT` | string | admitted times (`lua/window.lua`) | TTL: the limit's window + 1 % + 10 s |
| `rc:{T}:rules` | hash | what operators have set (`lua/rules.lua`) | with its last; the sweep takes out what ended |
| `rc:{T}:rules:USER` | hash | the same, for one user | the same |
| `rc:{T}:timed` | sorted set | user ('' for the tenant) → when its first timed rule ends, ms | with its last member |
| `rc:{T}:events` | stream | what happened | capped at about 10,000; the sweep, 30 days after the last |
| `rc:{T}:trails` | hash | bucket of users → its newest event (`lua/record.lua`), at most 4,096 | with the events |
| `rc:{T}:pulse:SLOT` | hash | kind and bucket of 10 s → how many; `=LIMIT` → shadow refusals | TTL: 80 min |
| `rc:{T}:refused:SLOT` | sorted set | address → refusals in these 10 min, the most frequent 1,000 | TTL: 80 min |
| `rc:{T}:sampled:KIND` | string | such a refusal was reported as an event lately | TTL: 10 s |
| `rc:{T}:hook:NAME` | hash | a webhook: cursor, waiting message, orders | the sweep, 30 days after the last |
| `rc:{T}:hook:NAME:lease` | string | which worker delivers it, until when, ms | given up, or with the webhook's state |
| `rc:{T}:hooks` | sorted set | webhook → when its state changed last, ms | with its last member |
| `rc:tenants` | set | tenants that may have something to sweep | a tenant leaves when it is gone and swept |
| `rc:configured` | set | tenants that were configured at the last look, so that a new one is noticed | there is one |
| `rc:windows` | string | SHA-256 of all configured windows, so that a restart notices longer ones | never: one key |
| `rc:pushes` | channel | a tenant whose refusals every worker forgets | nothing is kept |
| `rc:news` | channel | a tenant whose stream has grown | nothing is kept |
| `rc:sweeper` | string | which worker sweeps, until when, ms | given up; there is one |
| `rc:signed-out` | sorted set | login of an operator's browser → when it was signed out, ms | the latest 1,000 stay |
| `rc:adopted` | string | what an earlier version kept was taken over | there is one |
| `rc:libraries` | sorted set | function library → when a worker used it last, ms | a member a day after that |
| `rc:probe` | string | nothing: whether Redis takes writes | TTL: 1 s |
| `rc:probe:{N}` | string | the same on a Cluster, of one node: a key of a slot that it owns | TTL: 1 s |

`rc` is `redis.namespace`, the prefix of every key and channel: deployments with different ones do not see each other on
one server. `{T}` is `{tenant}`; requests that name no tenant are counted under `{?}`, a name that no tenant can have.
The service does not end what an operator decided without an end (`suspended`, `terminated`, an untimed restriction,
a revocation, a limit): it stays until an operator lifts it.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from service.core.sessions import RECORDED, Status

EVENTS_CAP = 10_000
"""Events kept per tenant, about (XADD MAXLEN ~)."""
SIGN_OUTS_CAP = 1000
"""Sign-outs of operators kept: each is needed only until the streams of its browser have ended."""
EVENTS_TTL_MS = 30 * 24 * 3600 * 1000
TRAFFIC_TTL_S = 80 * 60
PROBE_MS = 1000
LEASE_MS = 15_000
"""How long a lease lasts without a renewal, in milliseconds."""

ENDED, KEPT = 2**50, 2**51
"""Added to the score in `expiring` of who is logged out or expired; the score of who is suspended or terminated.

No time in ms comes near them. All users are in this one index, so that a walk over it misses nobody.
"""
DEFAULT_NAMESPACE = "rc"


class Names:
    """The namespace, and the keys and channels of a whole deployment. There is one in a process (`namespace.py`)."""

    namespace: str
    tenants: str
    configured: str
    sweeper: str
    probe: str
    libraries: str
    windows: str
    adopted: str
    sign_outs: str
    cache_channel: str
    event_channel: str

    def __init__(self, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.become(namespace)

    def become(self, namespace: str) -> None:
        """Name everything within `namespace` from now on."""
        self.namespace = namespace
        self.tenants = f"{namespace}:tenants"
        self.configured = f"{namespace}:configured"
        self.sweeper = f"{namespace}:sweeper"
        self.probe = f"{namespace}:probe"
        self.libraries = f"{namespace}:libraries"
        self.windows = f"{namespace}:windows"
        self.adopted = f"{namespace}:adopted"
        self.sign_outs = f"{namespace}:signed-out"
        self.cache_channel = f"{namespace}:pushes"
        self.event_channel = f"{namespace}:news"
        keys_of.cache_clear()


ANY_USER, REVOKED, REVOKED_SKEW, ANY_REVOKED = "*", "<", "<+", "<*"
"""Fields of a hash of rules. No capability can have these names (`lua/rules.lua`)."""
NO_TENANT = "?"
"""The tenant of requests that name none."""


def cluster_probe(number: int) -> str:
    """A probe's key in the slot of the hash tag `{number}`; different numbers spread over all slots."""
    return f"{NAMES.probe}:{{{number}}}"


@dataclass(frozen=True, slots=True, eq=False)
class TenantKeys:
    """The keys of one tenant, compared and hashed by identity (`keys_of` caches those in use)."""

    tag: str
    by_status: dict[Status, str]
    expiring: str
    ending: str
    events: str
    trails: str
    timed: str
    webhook_states: str
    rules: str
    shared: tuple[str, ...]
    """The indexes and the events, in the order that `lua/record.lua` expects."""

    def user(self, user: str) -> str:
        """Return the key of a user's record."""
        return f"{self.tag}u:{user}"

    def user_rules(self, user: str) -> str:
        """Return the key of what operators have set for a user."""
        return f"{self.rules}:{user}"

    def traffic(self, slot: int) -> str:
        """Return the key of the counts of ten minutes."""
        return f"{self.tag}pulse:{slot}"

    def refused(self, slot: int) -> str:
        """Return the key of the addresses that were refused in ten minutes."""
        return f"{self.tag}refused:{slot}"

    def sampled(self, kind: str) -> str:
        """Return the key that exists while a refusal of this kind was reported lately."""
        return f"{self.tag}sampled:{kind}"

    def webhook(self, name: str) -> str:
        """Return the key of a webhook's state."""
        return f"{self.tag}hook:{name}"

    def webhook_lease(self, name: str) -> str:
        """Return the key of a webhook's lease."""
        return f"{self.webhook(name)}:lease"

    def window(self, limit: str, subject: str) -> str:
        """Return the key of a subject's window under a limit."""
        return f"{self.tag}w:{limit}:{subject}"


def keys_of_tenants() -> str:
    """Return a pattern for SCAN that all keys of tenants match."""
    return f"{NAMES.namespace}:{{*}}:*"


def keys_of_one(tenant: str) -> str:
    """A pattern for SCAN that all keys of one tenant match."""
    return f"{NAMES.namespace}:{{{literally(tenant)}}}:*"


def status_and_rules() -> str:
    """A pattern for SCAN that indexes by status and rules match, of all tenants."""
    return f"{NAMES.namespace}:{{*}}:[br][yu]*"


def rules_of_users() -> str:
    """Return a pattern for SCAN that the rules of all users match."""
    return f"{NAMES.namespace}:{{*}}:rules:*"


def indexes_by_status() -> str:
    """A pattern for SCAN that the indexes by status match, of all tenants."""
    return f"{NAMES.namespace}:{{*}}:by:*"


def windows_of(tenant: str | None) -> str:
    """Return a pattern for SCAN that the windows of `tenant` (None: of all) match, and some other keys."""
    return f"{NAMES.namespace}:{{{'*' if tenant is None else literally(tenant)}}}:w:*"


def literally(text: str) -> str:
    """Return a pattern that matches this text alone."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in text)


def limit_of_window(key: str) -> tuple[str, str] | None:
    """Return the tenant and the limit of a window's key; None for any other key."""
    found = _WINDOW.match(key)
    return (found[2], found[3]) if found and found[1] == NAMES.namespace else None


_WINDOW = re.compile(r"([\w-]+):\{([^{}]+)\}:w:([^:]+):")


def due_keys(tenant: str) -> tuple[str, str]:
    """Return the two indexes that say who is due: for thousands of tenants at once, `keys_of` makes too many names."""
    tag = f"{NAMES.namespace}:{{{tenant}}}:"
    return f"{tag}expiring", f"{tag}ending"


def untidy_keys(tenant: str) -> tuple[str, str, str, str]:
    """Return the keys that say whether something of the tenant has ended: rules, events, webhooks, timed rules."""
    tag = f"{NAMES.namespace}:{{{tenant}}}:"
    return f"{tag}rules", f"{tag}events", f"{tag}hooks", f"{tag}timed"


@lru_cache(maxsize=4096)
def keys_of(tenant: str) -> TenantKeys:
    """Return the keys of `tenant`."""
    tag = f"{NAMES.namespace}:{{{tenant}}}:"
    by_status: dict[Status, str] = {status: f"{tag}by:{status.value}" for status in RECORDED}
    expiring, ending, events, trails = f"{tag}expiring", f"{tag}ending", f"{tag}events", f"{tag}trails"
    shared = (*by_status.values(), expiring, ending, events, trails)
    timed, webhook_states = f"{tag}timed", f"{tag}hooks"
    return TenantKeys(
        tag, by_status, expiring, ending, events, trails, timed, webhook_states, rules=f"{tag}rules", shared=shared
    )


NAMES = Names()
