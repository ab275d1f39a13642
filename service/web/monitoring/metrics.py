"""The metrics of /metrics. No label comes from a client, so the number of labels is bounded.

prometheus-client's counters take a lock and, with several workers, write to a shared file at each step. So
requests are counted in a plain dictionary, which is added to the counters once a second and before each reading.
"""

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess, values

from service.core.admission import Admission
from service.core.sessions import Status
from service.core.tasks import LastRuns, round_completed

POUR_EVERY_S = 1.0


def share_metrics(folder: Path) -> None:
    """Count for all workers together, in files of `folder`. Call this in each worker before its metrics are made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tally: Tally[tuple[Counter, tuple[str, ...]]] = Tally()
        self._answers: dict[tuple[str, int], int] = {}
        self._requests = self._counter("requests", "Answers, by operation and HTTP status", "operation", "status")
        self._paths: dict[str, int] = {}
        self._http_requests = self._counter(
            "http_requests", "Requests, by the path they take: hot (no router, no task), or aiohttp", "path"
        )
        self._http_refusals = self._counter(
            "http_refusals", "Requests that are not read as HTTP, by reason; the answer is a bare status", "reason"
        )
        self._refusals = self._counter(
            "limit_refusals", "Requests that a limit refused, or would have (shadow)", "limit", "shadow"
        )
        self._transitions = self._counter("transitions", "Transitions that requests made", "from_status", "to_status")
        self._degraded = self._counter("degraded", "Answers given without Redis, by what it did not decide", "what")
        self._failures = self._counter("redis_failures", "Admissions that Redis did not decide, by reason", "kind")
        self._address_problems = self._counter(
            "client_address_problems", "Requests whose forwarded address was not used, by why", "problem"
        )
        self._refused_preflights = self._counter(
            "refused_preflights", "CORS preflights that are refused an origin, a request field or a method", "reason"
        )
        self._swept = self._counter("swept", "Users that the sweep expired or removed", "what")
        self.redis_up = Gauge(
            "rollcall_redis_up",
            "1 while Redis answers admissions",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._last_run = Gauge(
            "rollcall_task_last_run_timestamp_seconds",
            "When a background task last completed a round (with several workers: the one that is furthest behind)",
            ["task"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._lost_lines = self._counter("log_lines_lost", "Lines of the log that could not be written")
        self._count_lost_lines: Callable[[], int] = lambda: 0
        self._lost_before = 0
        self._runs = LastRuns()

        self._key_set_fetches = self._counter(
            "jwks_fetches", "Fetches of key sets, by tenant and outcome", "tenant", "outcome"
        )
        self._key_set_up = Gauge(
            "rollcall_jwks_up",
            "1 where the last fetch of the tenant's key set succeeded",
            ("tenant",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._key_set_fetched = Gauge(
            "rollcall_jwks_last_success_timestamp_seconds",
            "When the tenant's key set was last fetched",
            ("tenant",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )

        self.clock_difference = Gauge(
            "rollcall_redis_clock_difference_seconds",
            "Seconds by which Redis's clock is ahead of the service's (negative: behind); the largest of all primaries",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"rollcall_{name}", meaning, labels, registry=self.registry)

    def watch_log(self, lost: Callable[[], int]) -> None:
        """Report how many lines the log lost. `lost` returns the number since the process started."""
        self._count_lost_lines = lost

    def watch_tasks(self, runs: LastRuns) -> None:
        """Report when each background task last completed a round."""
        self._runs = runs

    def count_request(self, operation: str, status: int) -> None:
        """Count one answer."""
        kind = (operation, status)
        self._answers[kind] = self._answers.get(kind, 0) + 1

    def count_path(self, path: str) -> None:
        """Count one request by the path that it takes, `hot` or `aiohttp`."""
        self._paths[path] = self._paths.get(path, 0) + 1

    def count_not_http(self, reason: str) -> None:
        """Count one request that is not read as HTTP."""
        self._tally[self._http_refusals, (reason,)] += 1

    def count_admission(self, admission: Admission) -> None:
        """Count what an admission decided."""
        for limit_state in admission.limit_states:
            if limit_state.over:
                limit = limit_state.limit
                self._tally[self._refusals, (limit.name, "true" if limit.shadow else "false")] += 1
        for what in admission.degraded:
            self._tally[self._degraded, (what,)] += 1
        if admission.came_from is not None and admission.session is not None:
            self._count_transition(admission.came_from, admission.session.status)

    def _count_transition(self, came_from: Status, to: Status) -> None:
        self._tally[self._transitions, (came_from.value, to.value)] += 1

    def count_failure(self, kind: str) -> None:
        """Count an admission that Redis did not decide."""
        self._tally[self._failures, (kind,)] += 1

    def count_address_problem(self, problem: str) -> None:
        """Count a request whose forwarded address was not used."""
        self._tally[self._address_problems, (problem,)] += 1

    def count_refused_preflight(self, reason: str) -> None:
        """Count a preflight of a page that may not call as it wants to."""
        self._tally[self._refused_preflights, (reason,)] += 1

    def count_swept(self, expired: int, removed: int) -> None:
        """Count the users of one round of the sweep."""
        self._tally[self._swept, ("expired",)] += expired
        self._tally[self._swept, ("removed",)] += removed

    def count_key_set_fetch(self, tenant: str, succeeded: bool) -> None:
        """Count one fetch of a tenant's key set."""
        self._tally[self._key_set_fetches, (tenant, "succeeded" if succeeded else "failed")] += 1
        self._key_set_up.labels(tenant).set(succeeded)
        if succeeded:
            self._key_set_fetched.labels(tenant).set_to_current_time()

    def forget_key_set(self, tenant: str) -> None:
        """Stop reporting a key set that is no longer fetched."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # there prometheus-client cannot remove a label
            self._key_set_up.labels(tenant).set(1)
            return
        for gauge in (self._key_set_up, self._key_set_fetched):
            gauge.remove(tenant)

    def pour(self) -> None:
        """Add what was counted to the counters of prometheus-client."""
        tally, self._tally = self._tally, Tally()
        answers, self._answers = self._answers, {}
        paths, self._paths = self._paths, {}
        for path, number in paths.items():
            self._http_requests.labels(path).inc(number)
        for (operation, status), number in answers.items():
            self._requests.labels(operation, str(status)).inc(number)
        for (counter, labels), number in tally.items():
            counter.labels(*labels).inc(number)
        lost = self._count_lost_lines()
        self._lost_lines.inc(lost - self._lost_before)
        self._lost_before = lost
        for name, at_s in self._runs.at_s.items():
            self._last_run.labels(name).set(at_s)

    async def run_forever(self) -> None:
        """Add it once a second, so that a reading in another worker misses at most a second."""
        while True:
            await asyncio.sleep(POUR_EVERY_S)
            self.pour()
            round_completed()

    def text(self) -> bytes:
        """Return the Prometheus text format."""
        self.pour()
        registry, folder = self.registry, os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
