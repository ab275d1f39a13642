"""Statuses, limits and the order of checks as plain Python: lists, dictionaries and `if`.

It is written from the documentation, and shares nothing with the service: its own table, its own windows. Times are
in microseconds.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

SECOND = 1_000_000
MS = 1_000

TABLE: dict[str, tuple[str | int, ...]] = {
    #            none          logged_in     logged_out    expired       suspended      terminated
    "request":   ("logged_in",  "logged_in",  "logged_in",  "logged_in",  403,           403),
    "logout":    ("logged_out", "logged_out", "logged_out", "logged_out", 403,           403),
    "terminate own": ("suspended", "suspended", "suspended", "suspended", 403,       403),
    "operator":  (404,          "logged_out", "logged_out", "logged_out", 409,           409),
    "suspend":   ("suspended",  "suspended",  "suspended",  "suspended",  "suspended",   409),
    "reinstate": (404,          409,          409,          409,          "logged_out",  409),
    "terminate": ("terminated", "terminated", "terminated", "terminated", "terminated",  "terminated"),
}  # fmt: skip
FROM = ("none", "logged_in", "logged_out", "expired", "suspended", "terminated")


@dataclass
class Limit:
    """What the configuration says of one."""

    name: str
    per: str
    requests: int
    window_s: int
    shadow: bool = False


@dataclass
class Rules:
    """What a reload may change."""

    limits: dict[str, list[Limit]]
    grace_s: int = 0
    seen_every_s: int = 60
    retention_s: int = 90
    leeway_s: int = 0


@dataclass
class User:
    """What is kept of one; times in whole milliseconds, 0 unknown."""

    status: str = "none"
    previous: str | None = None
    since: int = 0
    seen: int = 0
    expires: int = 0
    logged_out: int = 0
    """When last, counting those that changed nothing; 0 where an operator reinstated it."""


@dataclass
class Asked:
    """A request, as the model sees it."""

    operation: str
    tenant: str | None
    """None: the tenant token is unknown."""
    user: str
    address: str
    token: str = "good"
    """`good`, `bad`, `missing` or `expired`."""
    expires_us: int = 0
    issued_s: int | None = None
    passive: bool = False


@dataclass
class Answered:
    """What the answer must be."""

    status: int
    code: str = ""
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Limit → remaining, and seconds until there is more."""
    retry_after_s: int | None = None


class Plain:
    """The service, as it is documented."""

    def __init__(self, now_us: int, rules: Rules) -> None:
        self.now = now_us
        self.rules = rules
        self.users: dict[tuple[str, str], User] = {}
        self.windows: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self.events: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        self.restricted: dict[tuple[str, str | None], dict[str, int | None]] = defaultdict(dict)
        self.revoked: dict[tuple[str, str | None], int] = {}
        self.limits_set: dict[tuple[str, str], tuple[int, int]] = {}

    def user(self, tenant: str, user: str) -> User:
        """Return the session as it is."""
        return self.users.get((tenant, user), User())

    # --- a request, section 4 step by step ------------------------------------------------------------

    def request(self, asked: Asked) -> Answered:
        """Decide it, and let it have its effect."""
        known = asked.tenant is not None and asked.token == "good"
        if known and asked.tenant is not None:
            known = not self._is_revoked(asked.tenant, asked)
        limits = [
            self._as_set(asked.tenant, one)
            for one in self.rules.limits.get(asked.operation, [])
            if one.per != "user" or known
        ]
        windows = {one.name: self._window(one, asked) for one in limits}
        over = {one.name: len(windows[one.name]) >= one.requests for one in limits}
        refused = any(over[one.name] and not one.shadow for one in limits)
        for one in limits:
            if not refused and not over[one.name]:
                windows[one.name].append(self.now)
        reported = {one.name: self._standing(one, windows[one.name]) for one in limits if not one.shadow}
        if refused:
            waits = [reported[one.name][1] for one in limits if over[one.name] and not one.shadow]
            return Answered(429, "TOO_MANY_REQUESTS", reported, max(waits))
        status, code = self._judged(asked)
        return Answered(status, code, reported)

    def _judged(self, asked: Asked) -> tuple[int, str]:
        if asked.tenant is None:
            return 401, "INVALID_TENANT_TOKEN"
        if asked.token != "good":
            names = {"missing": "MISSING_USER_TOKEN", "expired": "EXPIRED_USER_TOKEN", "bad": "INVALID_USER_TOKEN"}
            return 401, names[asked.token]
        if self._is_revoked(asked.tenant, asked):
            return 401, "INVALID_USER_TOKEN"
        restricted = self._is_restricted(asked.tenant, asked)
        # Who is refused for a capability had a valid token, so it counts as a request; nobody is logged out by it.
        causes = {"logout": "logout", "terminate": "terminate own"}
        cause = "request" if restricted else causes.get(asked.operation, "request")
        user = self.user(asked.tenant, asked.user)
        to = TABLE[cause][FROM.index(user.status)]
        if isinstance(to, int):
            return to, f"USER_{user.status.upper()}"
        if not asked.passive or asked.operation in causes:
            self._seen(asked.tenant, asked, user, cause, to)
        if restricted:
            return 403, "RESTRICTED_CAPABILITY"
        return (201, "") if asked.operation == "terminate" else (200, "")

    def _seen(self, tenant: str, asked: Asked, user: User, cause: str, to: str) -> None:
        now_ms = self.now // MS
        in_grace = now_ms - user.logged_out < self.rules.grace_s * 1000
        is_login = asked.issued_s is not None and asked.issued_s * 1000 > user.logged_out
        if cause == "request" and user.status == "logged_out" and in_grace and not is_login:
            to = user.status
        changed = replace(user, expires=max(user.expires, asked.expires_us // MS))
        if cause == "logout" and self.rules.grace_s:
            changed.logged_out = now_ms
        if to != user.status:
            self._move(tenant, asked.user, changed, to, cause)
            self.users[tenant, asked.user].seen = now_ms
            return
        if now_ms - user.seen >= self.rules.seen_every_s * 1000 or now_ms < user.seen:
            changed.seen = now_ms
        self.users[tenant, asked.user] = changed

    def _move(self, tenant: str, name: str, user: User, to: str, cause: str) -> None:
        self.events[tenant].append((name, user.status, to))
        previous = None if user.status == "none" else user.status
        now_ms = self.now // MS
        logged_out = now_ms if to == "logged_out" and cause != "reinstate" else 0
        self.users[tenant, name] = replace(user, status=to, previous=previous, since=now_ms, logged_out=logged_out)

    # --- limits, section 7 ----------------------------------------------------------------------------

    def _as_set(self, tenant: str | None, limit: Limit) -> Limit:
        found = self.limits_set.get((tenant or "", limit.name))
        return replace(limit, requests=found[0], window_s=found[1]) if found else limit

    def _window(self, limit: Limit, asked: Asked) -> list[int]:
        subject = {"ip": asked.address, "user": asked.user, "tenant": "-"}[limit.per]
        key = (asked.tenant or "", limit.name, subject)
        self.windows[key] = [at for at in self.windows[key] if self.now - at < limit.window_s * SECOND]
        return self.windows[key]

    def _standing(self, limit: Limit, window: list[int]) -> tuple[int, int]:
        """Remaining, and whole seconds until the admission falls out that leaves room for one more."""
        remaining = max(0, limit.requests - len(window))
        if not window:
            return remaining, 0
        frees = window[max(0, len(window) - limit.requests)] + limit.window_s * SECOND
        return remaining, -(-(frees - self.now) // SECOND)

    # --- what operators do ----------------------------------------------------------------------------

    def act(self, tenant: str, name: str, act: str) -> int:
        """`logout`, `suspend`, `reinstate`, `terminate`: the status of the answer."""
        user = self.user(tenant, name)
        to = TABLE["operator" if act == "logout" else act][FROM.index(user.status)]
        if isinstance(to, int):
            return to
        if to != user.status:
            self._move(tenant, name, user, to, act)
        elif act == "logout":
            user.logged_out = self.now // MS
        return 200

    def forget(self, tenant: str, name: str) -> int:
        """The status of the answer."""
        status = self.user(tenant, name).status
        if status in ("none", "terminated"):
            return 404 if status == "none" else 409
        del self.users[tenant, name]
        return 200

    def restrict(self, tenant: str, name: str | None, capability: str, until: int | None, *, replace: bool) -> None:
        """For good (None) or until a moment in ms: never shorter than what holds, unless it replaces that."""
        own = self.restricted[tenant, name]
        held = own.get(capability, 0)
        if replace or (held is not None and (until is None or until > held)):
            own[capability] = until

    def restrictions(self, now_ms: int) -> dict[tuple[str, str | None], dict[str, int | None]]:
        """Those that are not over."""
        left = {
            at: {name: until for name, until in own.items() if until is None or until > now_ms}
            for at, own in self.restricted.items()
        }
        return {at: own for at, own in left.items() if own}

    def revoke(self, tenant: str, name: str | None, before_s: int | None, *, replace: bool) -> int:
        """The status of the answer. None: now, which covers 5 s more (or the leeway), for clocks differ."""
        latest = self.now + max(5, self.rules.leeway_s) * SECOND
        if before_s is not None and before_s * SECOND > latest:
            return 400
        until = latest // SECOND if before_s is None else before_s
        held = self.revoked.get((tenant, name), until)
        self.revoked[tenant, name] = until if replace else max(held, until)
        return 200

    def _is_restricted(self, tenant: str, asked: Asked) -> bool:
        ends = (self.restricted[tenant, whose].get(asked.operation, 0) for whose in (None, asked.user))
        return any(until is None or until > self.now // MS for until in ends)

    def _is_revoked(self, tenant: str, asked: Asked) -> bool:
        until = [self.revoked[tenant, whose] for whose in (None, asked.user) if (tenant, whose) in self.revoked]
        return any(asked.issued_s is None or asked.issued_s <= one for one in until)

    # --- time -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Who is logged in past the latest expiry is expired, soonest first; who is past the retention is forgotten."""
        now_ms, leeway, retention = self.now // MS, self.rules.leeway_s * 1000, self.rules.retention_s * 1000
        for (tenant, name), user in sorted(self.users.items(), key=lambda one: (one[1].expires, one[0])):
            if user.status == "logged_in" and user.expires + leeway <= now_ms:
                self._move(tenant, name, user, "expired", "expiry")
                user = self.users[tenant, name]
            if user.status in ("logged_out", "expired") and max(user.expires, user.since) + retention <= now_ms:
                del self.users[tenant, name]
