"""What /metrics tells. Labels are of our own making, never of a client's, so their number is bounded."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from service.core.admission import Admission


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "rollcall_requests",
            "Answers, by operation and HTTP status",
            ["operation", "status"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "rollcall_limit_refusals",
            "Requests that a limit refused, or would have (shadow)",
            ["limit", "shadow"],
            registry=self.registry,
        )
        self._transitions = Counter(
            "rollcall_transitions",
            "Transitions that requests made",
            ["from_status", "to_status"],
            registry=self.registry,
        )
        self._degraded = Counter(
            "rollcall_degraded",
            "Answers given without Redis, by what it did not decide",
            ["what"],
            registry=self.registry,
        )
        self._swept = Counter(
            "rollcall_swept", "Users that the sweep expired or removed", ["what"], registry=self.registry
        )
        self.redis_up = Gauge("rollcall_redis_up", "1 while Redis answers admissions", registry=self.registry)

    def count_request(self, operation: str, status: int) -> None:
        """Count one answer."""
        self._requests.labels(operation, str(status)).inc()

    def count_admission(self, admission: Admission) -> None:
        """Count what an admission decided."""
        for standing in admission.standings:
            if standing.over:
                self._refusals.labels(standing.limit.name, str(standing.limit.shadow).lower()).inc()
        for what in admission.degraded:
            self._degraded.labels(what).inc()
        if admission.came_from is not None and admission.session is not None:
            self._transitions.labels(admission.came_from.value, admission.session.status.value).inc()

    def count_swept(self, expired: int, removed: int) -> None:
        """Count what a round of the sweep came to."""
        self._swept.labels("expired").inc(expired)
        self._swept.labels("removed").inc(removed)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
