"""Random sequences of requests, operators' acts, steps of the clock, reloads and restarts, held to the plain model."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.plain import MS, SECOND, Asked, Limit, Plain, Rules, User
from tests.model.world import TENANTS, USERS, World

tenants, users = st.sampled_from(sorted(TENANTS)), st.sampled_from(USERS)
operations = st.sampled_from(["status", "verify", "logout"])
asked_for = st.sampled_from(["status", "verify", "logout"] * 5 + ["terminate"])
whose = st.one_of(users, users, st.none())
acts = st.sampled_from(["logout", "suspend", "reinstate"] * 4 + ["terminate"])  # who is terminated is out of the play
STEPS_S = (0.000_001, 0.4, 3, 19, 20, 45, 60, 61, 90, 300, 700)

RULES = Rules(
    limits={
        "status": [
            Limit("status-ip", "ip", 8, 60),
            Limit("status-user", "user", 6, 45),
            Limit("status-shadow", "tenant", 4, 20, shadow=True),
        ],
        "verify": [Limit("verify-tenant", "tenant", 15, 90)],
        "logout": [Limit("logout-ip", "ip", 4, 90)],
    },
)


class Wish(NamedTuple):
    """A request with good credentials, before it is known when it is sent."""

    operation: str
    tenant: str
    user: str
    address: str
    lives_s: int
    issued_ago_s: int | None
    passive: bool


requests = st.builds(
    Wish,
    operation=asked_for,
    tenant=tenants,
    user=users,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    lives_s=st.sampled_from([10, 50, 400]),
    issued_ago_s=st.sampled_from([None, -3, 0, 30]),
    passive=st.sampled_from([False, False, True]),
)


class Machine(RuleBasedStateMachine):
    """One sequence. `world` is set by whoever runs it, and is the same for all."""

    world: World

    @initialize(grace=st.sampled_from([0, 0, 30]), leeway=st.sampled_from([0, 5]), remembers=st.booleans())
    def begin(self, grace: int, leeway: int, remembers: bool) -> None:
        rules = replace(RULES, grace_s=grace, leeway_s=leeway)
        self.plain = Plain(self.world.begin(rules, remembers=remembers), rules)
        self.remembers = remembers

    @rule(burst=st.lists(st.tuples(requests, st.integers(1, 4)), min_size=1, max_size=5))
    def ask(self, burst: list[tuple[Wish, int]]) -> None:
        now = self.plain.now // MS * MS
        for wish, times in burst:
            expires_us, issued_s = now + wish.lives_s * SECOND, None
            if wish.issued_ago_s is not None:
                issued_s = now // SECOND - wish.issued_ago_s
            asked = Asked(
                wish.operation, wish.tenant, wish.user, wish.address, "good", expires_us, issued_s, wish.passive
            )
            for _ in range(times):
                self.compare(asked)

    @rule(
        operation=operations,
        tenant=st.one_of(st.none(), tenants),
        user=users,
        token=st.sampled_from(["bad", "missing", "expired"]),
    )
    def ask_with_bad_credentials(self, operation: str, tenant: str | None, user: str, token: str) -> None:
        lives_s = -100 if token == "expired" else 60
        self.compare(Asked(operation, tenant, user, "10.0.0.1", token, self.plain.now + lives_s * SECOND))

    def compare(self, asked: Asked) -> None:
        wanted, found = self.plain.request(asked), self.world.request(asked)
        assert (found.status, found.code) == (wanted.status, wanted.code), asked
        if wanted.status == 429 and self.remembers:
            # Perhaps from the cache: Retry-After is of a limit that refuses, the other limits are as they were then.
            refusing = {reset for left, reset in wanted.limits.values() if left == 0}
            assert found.retry_after_s in refusing, (asked, wanted, found)
        else:
            assert found == wanted, asked

    @rule(tenant=tenants, user=users, act=acts)
    def act(self, tenant: str, user: str, act: str) -> None:
        assert self.world.admin("POST", f"{tenant}/users/{user}/{act}") == self.plain.act(tenant, user, act)

    @rule(tenant=tenants, user=users)
    def log_out_everywhere(self, tenant: str, user: str) -> None:
        done = self.plain.act(tenant, user, "logout")
        if done == 200:
            self.plain.revoke(tenant, user, None, replace=False)
        assert self.world.admin("POST", f"{tenant}/users/{user}/logout", everywhere=True) == done

    @rule(tenant=tenants, user=users)
    def forget(self, tenant: str, user: str) -> None:
        assert self.world.admin("DELETE", f"{tenant}/users/{user}") == self.plain.forget(tenant, user)

    @rule(
        tenant=tenants,
        user=whose,
        capability=operations,
        lasts_s=st.sampled_from([None, 20, 50]),
        replace=st.booleans(),
    )
    def restrict(self, tenant: str, user: str | None, capability: str, lasts_s: int | None, replace: bool) -> None:
        until_ms = None if lasts_s is None else self.plain.now // MS + lasts_s * 1000
        until, query = _moment(None if until_ms is None else until_ms / 1000), "?replace=true" if replace else ""
        assert self.world.admin("PUT", f"{_of(tenant, user)}/restrictions/{capability}{query}", until=until) == 200
        self.plain.restrict(tenant, user, capability, until_ms, replace=replace)

    @rule(tenant=tenants, user=whose, capability=operations)
    def lift(self, tenant: str, user: str | None, capability: str) -> None:
        self.world.admin("DELETE", f"{_of(tenant, user)}/restrictions/{capability}")
        self.plain.restricted[tenant, user].pop(capability, None)

    @rule(tenant=tenants, user=whose, ago_s=st.sampled_from([None, 0, 15, 15, 40, -4, -60]), replace=st.booleans())
    def revoke(self, tenant: str, user: str | None, ago_s: int | None, replace: bool) -> None:
        before_s, query = (
            None if ago_s is None else self.plain.now // SECOND - ago_s,
            "?replace=true" if replace else "",
        )
        found = self.world.admin("PUT", f"{_of(tenant, user)}/revocation{query}", before=_moment(before_s))
        assert found == self.plain.revoke(tenant, user, before_s, replace=replace)

    @rule(tenant=tenants, user=whose)
    def restore(self, tenant: str, user: str | None) -> None:
        assert self.world.admin("DELETE", f"{_of(tenant, user)}/revocation") == 200
        self.plain.revoked.pop((tenant, user), None)

    @rule(tenant=tenants, requests=st.integers(2, 7))
    def set_limit(self, tenant: str, requests: int) -> None:
        assert self.world.admin("PUT", f"{tenant}/limits/logout-ip", requests=requests, window=90) == 200
        self.plain.limits_set[tenant, "logout-ip"] = (requests, 90)

    @rule(step_s=st.sampled_from(STEPS_S))
    def wait(self, step_s: float) -> None:
        self.plain.now += round(step_s * SECOND)
        self.world.set_clock(self.plain.now)

    @rule(step_s=st.sampled_from(STEPS_S))
    def sweep(self, step_s: float) -> None:
        self.wait(step_s)
        self.world.sweep()
        self.plain.sweep()

    @rule(grace=st.sampled_from([0, 30]), requests=st.integers(4, 9))
    def reload(self, grace: int, requests: int) -> None:
        status = [replace(RULES.limits["status"][0], requests=requests), *RULES.limits["status"][1:]]
        self.plain.rules = replace(self.plain.rules, grace_s=grace, limits={**RULES.limits, "status": status})
        self.world.reload(self.plain.rules)

    @rule()
    def restart_redis(self) -> None:
        self.world.restart_redis()

    @invariant()
    def every_status_is_that_of_the_model(self) -> None:
        if not hasattr(self, "plain"):
            return
        found = {
            at: User(one.status.value, one.previous, one.since_ms or 0, one.seen_ms or 0, one.expires_ms or 0)
            for at, one in self.world.users().items()
        }
        assert found == {at: replace(one, logged_out=0) for at, one in self.plain.users.items()}
        assert self.world.listed() == {at: one.status for at, one in self.plain.users.items()}

    @invariant()
    def what_operators_have_set_is_what_the_model_says(self) -> None:
        if hasattr(self, "plain"):
            now_ms = self.plain.now // MS
            assert self.world.revoked() == self.plain.revoked
            assert self.world.restricted(now_ms) == self.plain.restrictions(now_ms)

    @invariant()
    def each_transition_has_one_event_in_order(self) -> None:
        if hasattr(self, "plain"):
            for tenant in TENANTS:
                assert self.world.events(tenant) == self.plain.events[tenant]


def _moment(seconds: float | None) -> str | None:
    """A time as the admin API takes it, with its zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _of(tenant: str, user: str | None) -> str:
    return tenant if user is None else f"{tenant}/users/{user}"
