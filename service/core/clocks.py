"""Clock skew: how much of it is tolerated, and how far Redis's clock is from the service's."""

import time
from collections.abc import Callable, Iterable

import structlog

from service.core.text.timestamps import timestamp

log = structlog.get_logger()

FORGIVEN_SKEW_S = 5
"""How much the clocks of issuers, hosts and Redis may differ; a larger `leeway` of the tenant has priority."""
WARN_ABOVE_S = 1.0
"""A larger difference between the service's clock and Redis's is a warning."""
MET_FOR_S = 600.0
"""How long `/readyz` warns of a revocation that lies ahead of the clock, after it last refused a token."""
WARN_EVERY_S = 60.0
"""How often the log repeats the warning."""


def now_ms() -> int:
    """Return milliseconds since the epoch by the service's clock, which decides about tokens."""
    return time.time_ns() // 1_000_000


def forgiven_skew_ms(leeway_s: float) -> int:
    """Return the skew that a tenant with this leeway tolerates, in milliseconds."""
    return int(max(FORGIVEN_SKEW_S, leeway_s) * 1000)


class RevocationsAhead:
    """Remembers which tenants have a revocation that lies ahead of the clock, as admissions met them lately.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._met: dict[str, tuple[int, float]] = {}
        """Tenant → the second from which its tokens are accepted, and when that was met last."""

    def note(self, tenant: str, accepted_from_s: int) -> None:
        """Note that a token was refused by such a revocation, of its user or of its tenant."""
        if tenant not in self._met:
            log.warning(
                "a revocation lies ahead of the clock, so logins are refused until then; lift it if a clock was ahead "
                "when it was set",
                tenant=tenant,
                until=timestamp(accepted_from_s * 1000),
            )
        self._met[tenant] = accepted_from_s, self._clock()

    def warnings(self) -> list[str]:
        """Return a sentence for each tenant, for `/readyz`, until ten minutes after the last refusal."""
        now = self._clock()
        self._met = {
            tenant: (until_s, at)
            for tenant, (until_s, at) in self._met.items()
            if until_s > now and now - at < MET_FOR_S
        }
        return [
            f"Tenant {tenant} has a revocation that lies ahead of the clock: logins are refused until "
            f"{timestamp(until_s * 1000)}. If a clock was ahead when it was set, lift it (DELETE …/revocation)"
            for tenant, (until_s, _) in self._met.items()
        ]


class ClockDifferences:
    """Keeps the latest difference between the service's clock and that of each Redis server.

    Args:
        report: receives the largest difference, in seconds (positive: Redis is ahead), after each measurement.
        clock: seconds of a clock that does not go back.
    """

    def __init__(
        self, report: Callable[[float], None] = lambda largest_s: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._servers: dict[str, tuple[float, float]] = {}
        """Server → difference in seconds, and by how much it may be off."""
        self._warned_at = float("-inf")

    def update(self, measured: Iterable[tuple[str, float, float]]) -> None:
        """Replace all differences by those just measured.

        Args:
            measured: for each server its name, the difference in seconds (positive: Redis is ahead), and by how many
                seconds the true difference may be smaller or larger: half of the round trip.
        """
        was_large, before = bool(self._large()), self._servers
        self._servers = {name: (difference_s, uncertain_s) for name, difference_s, uncertain_s in measured}
        self._report(max((one for one, _ in self._servers.values()), key=abs, default=0.0))
        for name, (now_s, uncertain_s) in self._servers.items():
            before_s, was_uncertain_s = before.get(name, (now_s, 0.0))
            if abs(now_s - before_s) - uncertain_s - was_uncertain_s > WARN_ABOVE_S:
                # After a failover the clock of the new primary counts; or somebody set one of the clocks.
                log.warning("the clock of redis jumped", server=name, seconds=round(now_s - before_s, 3))
        large = {name: round(one, 3) for name, one in self._large().items()}
        if large and self._clock() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = self._clock()
            log.warning("the clocks of redis and of the service differ", seconds_ahead=large)
        elif was_large and not large:
            log.info("the clocks of redis and of the service agree again")

    def warnings(self) -> list[str]:
        """Return a sentence for each server whose clock is more than a second off, for `/readyz`.

        And one where the servers differ from each other by more than that, although each is close to the service.
        """
        sentences = [
            f"The clock of Redis ({name}) is {abs(difference_s):.1f} s "
            f"{'ahead of' if difference_s > 0 else 'behind'} the clock of the service"
            for name, difference_s in self._large().items()
        ]
        if not sentences and len(self._servers) > 1:
            behind, ahead = (choose(self._servers, key=lambda name: self._servers[name][0]) for choose in (min, max))
            (behind_s, below_s), (ahead_s, above_s) = self._servers[behind], self._servers[ahead]
            if ahead_s - behind_s - below_s - above_s > WARN_ABOVE_S:
                sentences.append(f"The clock of Redis ({ahead}) is {ahead_s - behind_s:.1f} s ahead of {behind}'s")
        return sentences

    def _large(self) -> dict[str, float]:
        """The servers whose difference is large enough for a warning, and that difference in seconds."""
        return {
            name: difference_s
            for name, (difference_s, uncertain_s) in self._servers.items()
            if abs(difference_s) - uncertain_s > WARN_ABOVE_S
        }
