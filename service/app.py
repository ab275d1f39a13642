"""The composition root: makes the application from the settings. Only it and `policy_factory.py` see all layers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import aiohttp_jinja2
import jinja2
from aiohttp import web

from service import logs
from service.background.key_set_refresh import RemoteKeySets
from service.background.open_sessions import OpenSessions
from service.background.webhook_delivery import Webhooks
from service.config.settings import Settings
from service.core.admission import OutagePolicy
from service.core.clocks import ClockDifferences, RevocationsAhead
from service.core.errors import BREAKER_IS_OPEN, StoreUnavailable
from service.core.readiness import Readiness
from service.core.routing.routes import Protected
from service.core.tasks import LastRuns, end, keep_running, round_completed
from service.core.tokens.verification import VerifiedTokens
from service.core.traffic_statistics import TrafficCounters
from service.policy_factory import key_sources, make_policy, session_rules, sweep_rules, webhooks_of
from service.store.admissions.batcher import Admissions
from service.store.clock_comparison import ClockComparison
from service.store.connection.calls import failures_noted
from service.store.connection.client import RedisAccess
from service.store.connection.server_check import ServerCheck
from service.store.events.stream import Events
from service.store.events.subscriber import EventSubscriber
from service.store.events.traffic_statistics import TrafficStatistics
from service.store.events.webhook_state import RedisWebhookStates
from service.store.fork_durations import ForkDurations
from service.store.keyspace import NO_TENANT
from service.store.sessions.expiry_sweep import Sweeper
from service.store.sessions.inspection import Inspections
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web import app_keys, routes
from service.web.api.authentication import Middlewares
from service.web.monitoring.log_throttling import LogThrottle
from service.web.monitoring.metrics import POUR_EVERY_S, Metrics
from service.web.policy import LivePolicy, Policy
from service.web.server.hot_path import HOT_PATH

MAX_BODY_BYTES = 64 * 1024


class Runtime:
    """Everything that lives as long as the application, and the changes by a reload."""

    def __init__(self, settings: Settings, access: RedisAccess, policy: Policy | None = None) -> None:
        self.metrics = Metrics()
        self.runs = LastRuns()
        self.readiness = Readiness()
        self.readiness.add_warning(logs.lost_lines)
        self.metrics.watch_log(lambda: logs.writer.lost)
        self.metrics.watch_tasks(self.runs)
        self.log_throttle = LogThrottle()
        self.verified = VerifiedTokens()
        self.key_sets = RemoteKeySets(on_fetch=self.metrics.count_key_set_fetch, on_forget=self.metrics.forget_key_set)
        self.readiness.add_warning(self.key_sets.warnings)
        self.server_check = ServerCheck(allow_eviction=settings.redis.allow_eviction)
        self.readiness.add_blocker(self.server_check.blockers)
        self.readiness.add_warning(self.server_check.warnings)
        self.router = access.router(
            timeout_s=settings.redis.timeout, on_change=self.redis_changed, check=self.server_check, runs=self.runs
        )
        self.admissions = Admissions(self.router, session_rules(settings))
        revocations_ahead = RevocationsAhead()
        self.admissions.note_ahead = revocations_ahead.note
        self.readiness.add_warning(revocations_ahead.warnings)
        self.outage = OutagePolicy(
            allow_sessions=False,
            clock_us=lambda: time.monotonic_ns() // 1000,
            held=self.admissions.denials.held,
        )
        self.sessions = Sessions(access.client)
        self.events = Events(access.client)
        self.actions = RedisOperatorActions(access.client, forget_denials=self.admissions.denials.forget)
        self.subscriber = EventSubscriber(access.client)
        self.open_sessions = OpenSessions(
            self.subscriber, Inspections(access.client).inspect, lambda: self.router.is_down
        )
        self.webhook_states = RedisWebhookStates(access.client)
        self.webhooks = Webhooks(self.webhook_states, self.subscriber, on_failure=self.metrics.count_webhook_failure)
        self.metrics.watch_webhooks(self.webhooks.oldest_waiting_s)
        self.traffic = TrafficCounters()
        self.traffic_statistics = TrafficStatistics(access.client)
        self.sweeper = Sweeper(access.client, lambda: self.sweep_rules, self.count_swept, node_of=self.node_of)
        clocks = ClockDifferences(self.metrics.clock_difference.set)
        self.readiness.add_warning(clocks.warnings)
        self.clocks = ClockComparison(access.client, clocks)
        self.forks = ForkDurations(access.client, settings.redis.timeout)
        self.readiness.add_warning(self.forks.warnings)
        self.access = access
        self.policy = LivePolicy(policy or make_policy(settings))
        self.not_writable: Sequence[str] = ()
        self.readiness.add_warning(self.warn_of_primaries)
        if access.monitor is not None:
            self.readiness.add_warning(access.monitor.warnings)
        self.apply(settings, self.policy.current)
        self.metrics.note_reload(True)

    def apply(self, settings: Settings, policy: Policy) -> None:
        """Use these settings from now on. The addresses of the server and of Redis stay."""
        windows_s = policy.directory.windows_s().items()
        self.actions.retention.follow({(tenant or NO_TENANT, limit): one_s for (tenant, limit), one_s in windows_s})
        self.settings = settings
        self.sweep_rules = sweep_rules(settings)
        self.policy.current = policy
        self.admissions.rules = session_rules(settings)
        self.admissions.denials.forget()
        Protected.forget()
        self.webhooks.follow(webhooks_of(settings))
        self.outage.allow_sessions = settings.sessions.on_outage == "allow"
        self.key_sets.follow(key_sources(settings, policy.directory))

    def services(self, operations: dict[object, app_keys.Operation]) -> app_keys.RequestServices:
        """Return the services for requests."""
        return app_keys.RequestServices(
            policy=self.policy,
            verified=self.verified,
            metrics=self.metrics,
            log_throttle=self.log_throttle,
            traffic=self.traffic,
            operations=operations,
            ask=self.admissions.ask,
            start=self.admissions.start,
            without_store=self.outage.decide,
            refetch_keys=self.key_sets.refetch,
            may_refetch_keys=self.key_sets.may_refetch,
            is_down=lambda: self.router.is_down,
            is_ready=self.is_ready,
            readiness=self.readiness,
            open_session=self.open_sessions.open,
        )

    def redis_changed(self, up: bool) -> None:
        """Note that Redis went away or is back. Streams end, because they would look live without events."""
        if up:
            self.clocks.compare_now()
        else:
            self.subscriber.close()
        self.metrics.redis_up.set(up)

    def node_of(self, tenant: str) -> object:
        """Return an object for the node that has the tenant. Raises StoreUnavailable while it is away."""
        pipeline = self.router.pipeline_to(tenant)
        if pipeline.is_down:
            raise StoreUnavailable(BREAKER_IS_OPEN, pipeline.failure)
        return pipeline

    def count_swept(self, tenant: str, expired: int, removed: int) -> None:
        """Count the users of a tenant that the sweep expired and removed."""
        self.metrics.count_swept(expired, removed)
        self.traffic.transition(tenant, expired)

    async def is_ready(self) -> bool:
        """Return whether at least one primary takes writes now. Note those that do not, for the warnings."""
        not_writable = await self.router.not_writable()
        self.not_writable = () if not_writable is None else not_writable
        return not_writable is not None

    def warn_of_primaries(self) -> Iterator[str]:
        """Yield a sentence for each primary that took no writes when it was last asked."""
        for name in self.not_writable:
            yield f"The primary {name} takes no writes: its tenants are answered as without Redis."

    async def pour(self) -> None:
        """Write the counts for the charts to Redis; while it is away, they are lost."""
        for tenant, sample in self.traffic.take().items():
            with failures_noted():
                await self.traffic_statistics.pour(tenant, sample)

    async def pour_forever(self) -> None:
        """Write them once a second."""
        while True:
            await asyncio.sleep(POUR_EVERY_S)
            if not self.router.is_down:
                await self.pour()
            round_completed()

    async def end_streams(self, _: web.Application) -> None:
        """End the answers that do not end by themselves; for `on_shutdown`."""
        self.open_sessions.shut_down()
        self.subscriber.shut_down()

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Run the background tasks; for `cleanup_ctx`."""
        await self.router.open()
        beside: dict[str, Callable[[], Awaitable[None]]] = {
            "sweep": self.sweeper.run_forever,
            "clock comparison": self.clocks.run_forever,
            "fork durations": self.forks.run_forever,
            "key sets": self.key_sets.run_forever,
            "metrics": self.metrics.run_forever,
            "log throttling": self.log_throttle.run_forever,
            "denial cache": lambda: self.admissions.denials.listen_forever(self.access.client),
            "event subscriber": self.subscriber.run_forever,
            "traffic statistics": self.pour_forever,
            "webhooks": self.webhooks.run_forever,
            "windows": self.actions.retention.run_forever,
        }
        tasks = [asyncio.create_task(keep_running(name, work, self.runs)) for name, work in beside.items()]
        yield
        await self.open_sessions.close()
        await end(tasks)
        self.metrics.pour()
        self.log_throttle.flush()
        await self.pour()
        with suppress(StoreUnavailable):
            await self.sweeper.release()
        await self.admissions.close()
        await self.router.close()
        await self.access.close()


RUNTIME = web.AppKey("RUNTIME", Runtime)


def make_app(settings: Settings, access: RedisAccess, policy: Policy | None = None) -> web.Application:
    """Return the application, from validated settings and access to Redis. It reads files: not for the event loop.

    Args:
        settings: the configuration.
        access: the connections to Redis.
        policy: the policy of these settings, if the caller has made it already.
    """
    runtime = Runtime(settings, access, policy)
    services = runtime.services(dict(routes.OPERATIONS))
    middlewares = Middlewares(services)
    app = web.Application(
        middlewares=[middlewares.problems, middlewares.authentication], client_max_size=MAX_BODY_BYTES
    )
    app[RUNTIME] = runtime
    app[app_keys.REQUEST_SERVICES] = services
    app[HOT_PATH] = routes.hot_path(middlewares)
    app[app_keys.SESSIONS] = runtime.sessions
    app[app_keys.LEFTOVERS] = RedisLeftovers(access.client)
    app[app_keys.HISTORIES] = runtime.events
    app[app_keys.OPERATOR_ACTIONS] = runtime.actions
    app[app_keys.EVENT_FEEDS] = runtime.subscriber
    app[app_keys.TRAFFIC_STATISTICS] = runtime.traffic_statistics
    app[app_keys.WEBHOOK_STATES] = runtime.webhook_states
    app[app_keys.BASE_PATH] = settings.server.base_path
    routes.add_routes(app, settings.server.base_path)
    loader = jinja2.PackageLoader("service.web.dashboard", "templates")
    pages = aiohttp_jinja2.setup(
        app, loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, auto_reload=False
    )
    for name in loader.list_templates():
        pages.get_template(name)  # read now, so that no request waits for the disk
    app.cleanup_ctx.append(runtime.run)
    app.on_shutdown.append(runtime.end_streams)
    return app
