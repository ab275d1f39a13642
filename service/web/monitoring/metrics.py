"""The metrics of /metrics. No label comes from a client, so the number of labels is bounded.

prometheus-client's counters take a lock and, with several workers, write to a shared file at each step. So
requests are counted in a plain dictionary, which is added to the counters once a second and before each reading.
"""

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess, values

from service.core.admission import Admission
from service.core.sessions import Cause, Status
from service.core.tasks import LastRuns, round_completed

POUR_EVERY_S = 1.0
_OfWorkers = Literal["livemin", "livemax", "livemostrecent"]
_OWN_CAUSES = {
    Status.LOGGED_OUT: Cause.LOGOUT,
    Status.SUSPENDED: Cause.OWN_SUSPEND,
    Status.TERMINATED: Cause.OWN_TERMINATE,
}
"""Where a request moved its user → why; anywhere else by its token alone."""


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
        self._turned_away = self._counter(
            "turned_away_clients", "Clients that were disconnected because as many are connected as descriptors allow"
        )
        self._address_problems = self._counter(
            "client_address_problems", "Requests whose forwarded address was not used, by why", "problem"
        )
        self._refused_preflights = self._counter(
            "refused_preflights", "CORS preflights that are refused an origin, a request field or a method", "reason"
        )

        self._refusals = self._counter(
            "limit_refusals", "Requests that a limit refused, or would have (shadow)", "limit", "shadow"
        )
        self._transitions = self._counter(
            "transitions", "Transitions, by what caused them", "from_status", "to_status", "cause"
        )
        self._acts = self._counter("acts", "Changes that operators made, by kind", "act")
        self._swept = self._counter("swept", "Users that the sweep expired or removed", "what")

        self._degraded = self._counter("degraded", "Answers given without Redis, by what it did not decide", "what")
        self._failures = self._counter("redis_failures", "Admissions that Redis did not decide, by reason", "kind")
        self.redis_up = self._gauge("redis_up", "1 while Redis answers admissions")
        self.clock_difference = self._gauge(
            "redis_clock_difference_seconds",
            "Seconds by which Redis's clock is ahead of the service's (negative: behind); the largest of all primaries",
            of_workers="livemostrecent",
        )
        self._declare_background()

    def _declare_background(self) -> None:
        """Declare the metrics of what runs beside the requests."""
        self._webhook_failures = self._counter(
            "webhook_failures", "Attempts to deliver a message that failed", "tenant", "webhook"
        )
        self._oldest_waiting_s: Callable[[], Mapping[tuple[str, str], float]] = dict
        self._waited: set[tuple[str, str]] = set()
        self._oldest_waiting = self._gauge(
            "webhook_oldest_waiting_seconds",
            "For how long the oldest event that a webhook has not delivered waits; 0: none does",
            ("tenant", "webhook"),
            of_workers="livemax",
        )
        self._key_set_fetches = self._counter(
            "jwks_fetches", "Fetches of key sets, by tenant and outcome", "tenant", "outcome"
        )
        self._key_set_up = self._gauge(
            "jwks_up", "1 where the last fetch of the tenant's key set succeeded", ("tenant",)
        )
        self._key_set_fetched = self._gauge(
            "jwks_last_success_timestamp_seconds", "When the tenant's key set was last fetched", ("tenant",)
        )
        self._reload_successful = self._gauge(
            "config_last_reload_successful",
            "1 where the last reload of the configuration succeeded (with several workers: on all of them)",
        )
        self._reload_succeeded_at = self._gauge(
            "config_last_reload_success_timestamp_seconds", "When the configuration was last loaded"
        )
        self._runs = LastRuns()
        self._last_run = self._gauge(
            "task_last_run_timestamp_seconds",
            "When a background task last completed a round (with several workers: the one that is furthest behind)",
            ("task",),
        )
        self._task_failures = self._counter(
            "task_failures", "Rounds of background tasks that failed, by what kept them", "task", "kind"
        )
        self._failed_before: Tally[tuple[str, str]] = Tally()
        self._lost_lines = self._counter("log_lines_lost", "Lines of the log that could not be written")
        self._count_lost_lines: Callable[[], int] = lambda: 0
        self._lost_before = 0

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"rollcall_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = (), of_workers: _OfWorkers = "livemin") -> Gauge:
        """Declare a gauge; `of_workers` says which value is reported of those that several workers have."""
        return Gauge(f"rollcall_{name}", meaning, labels, registry=self.registry, multiprocess_mode=of_workers)

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

    def count_turned_away(self) -> None:
        """Count one client for which there is no descriptor."""
        self._turned_away.inc()

    def count_admission(self, admission: Admission) -> None:
        """Count what an admission decided."""
        for limit_state in admission.limit_states:
            if limit_state.over:
                limit = limit_state.limit
                self._tally[self._refusals, (limit.name, "true" if limit.shadow else "false")] += 1
        for what in admission.degraded:
            self._tally[self._degraded, (what,)] += 1
        if admission.came_from is not None and admission.session is not None:
            to = admission.session.status
            self.count_transition(admission.came_from, to, _OWN_CAUSES.get(to, Cause.REQUEST))

    def count_transition(self, came_from: Status, to: Status, cause: Cause, number: int = 1) -> None:
        """Count transitions."""
        self._tally[self._transitions, (came_from.value, to.value, cause.value)] += number

    def count_act(self, act: str) -> None:
        """Count a change that an operator made."""
        self._tally[self._acts, (act,)] += 1

    def count_webhook_failure(self, tenant: str, webhook: str) -> None:
        """Count an attempt to deliver a message that failed."""
        self._tally[self._webhook_failures, (tenant, webhook)] += 1

    def watch_webhooks(self, oldest_waiting_s: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """Report how long the oldest undelivered event of each webhook waits: tenant and name → seconds."""
        self._oldest_waiting_s = oldest_waiting_s

    def note_reload(self, succeeded: bool) -> None:
        """Report what the last reload of the configuration came to; the start counts as one."""
        self._reload_successful.set(succeeded)
        if succeeded:
            self._reload_succeeded_at.set_to_current_time()

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
        if expired:
            self.count_transition(Status.LOGGED_IN, Status.EXPIRED, Cause.EXPIRY, expired)
        self._tally[self._swept, ("removed",)] += removed

    def count_key_set_fetch(self, tenant: str, succeeded: bool, all_succeeded: bool) -> None:
        """Count one fetch of a tenant's key set."""
        self._tally[self._key_set_fetches, (tenant, "succeeded" if succeeded else "failed")] += 1
        self._key_set_up.labels(tenant).set(all_succeeded)
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
        waiting = self._oldest_waiting_s()
        for webhook in self._waited | waiting.keys():
            self._oldest_waiting.labels(*webhook).set(waiting.get(webhook, 0.0))
        self._waited |= waiting.keys()
        lost = self._count_lost_lines()
        self._lost_lines.inc(lost - self._lost_before)
        self._lost_before = lost
        for name, at_s in self._runs.at_s.items():
            self._last_run.labels(name).set(at_s)
        for task, times in (self._runs.failures - self._failed_before).items():
            self._task_failures.labels(*task).inc(times)
        self._failed_before = Tally(self._runs.failures)

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
