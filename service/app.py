"""The composition root: settings → application. The only place that sees everything."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from importlib.resources import as_file, files

import aiohttp_jinja2
import jinja2
from aiohttp import web
from multidict import istr

from service.core.admission import OutagePolicy, Terms
from service.core.errors import StoreUnavailable
from service.core.hooks import Hook, key_of
from service.core.limits import Limit
from service.core.pulse import Pulse
from service.core.routes import Protected, Route, RouteTable
from service.core.sessions import Cause
from service.core.tasks import end, keep_running
from service.core.tenants import Directory, Tenant, digest
from service.core.tokens import KeyRing, VerifiedTokens
from service.jwks import RemoteKeySets, Source
from service.settings import OPERATIONS, LimitSection, RouteSection, Settings, TenantSection
from service.store.acts import OperatorActs
from service.store.admissions import Admissions, SessionRules
from service.store.connection import RedisAccess
from service.store.events import Events
from service.store.hooks import Hooks
from service.store.news import News
from service.store.pulse import Pulses
from service.store.reach import AWAY
from service.store.sessions import Sessions
from service.store.sweep import Sweeper, SweepRules
from service.web import admin, auth, cors, dashboard, docs, forward_auth, health, keys
from service.web.forwarded import ClientAddressRules
from service.web.metrics import POUR_EVERY_S, Metrics
from service.web.middlewares import Middlewares
from service.web.pages import API, ROOT, files_of
from service.web.policy import LivePolicy, Operator, Policy
from service.web.repeats import Repeats
from service.web.short_way import SHORT_WAY, ShortWay, Way
from service.webhooks import Webhooks

MAX_BODY_BYTES = 64 * 1024
LOGOUT, STATUS = keys.Operation("logout"), keys.Operation("status")
TERMINATE = keys.Operation("terminate", own_terms=auth.ending)


class Runtime:
    """Everything that lives as long as the application, and how it follows a reloaded configuration."""

    def __init__(self, settings: Settings, access: RedisAccess) -> None:
        self.metrics = Metrics()
        self.repeats = Repeats()
        self.verified = VerifiedTokens()
        self.key_sets = RemoteKeySets()
        self.ways = access.ways(timeout_s=settings.redis.timeout, on_change=self.redis_changed)
        self.admissions = Admissions(self.ways, session_rules(settings))
        self.outage = OutagePolicy(allow_sessions=False, clock_us=lambda: time.monotonic_ns() // 1000)
        self.sessions = Sessions(access.client)
        self.events = Events(access.client)
        self.acts = OperatorActs(access.client)
        self.news = News(access.client)
        self.hooks = Hooks(access.client)
        self.webhooks = Webhooks(self.hooks, self.news)
        self.pulse = Pulse()
        self.pulses = Pulses(access.client)
        self.sweeper = Sweeper(access.client, lambda: sweep_rules(self.settings), self.count_swept)
        self.access = access
        self.policy = LivePolicy(make_policy(settings))
        self.apply(settings, self.policy.current)

    def apply(self, settings: Settings, policy: Policy) -> None:
        """Judge by these settings from now on. What the server listens on and which Redis it uses stay."""
        self.settings = settings
        self.policy.current = policy
        self.admissions.rules = session_rules(settings)
        self.admissions.refusals.forget()
        Protected.forget()
        self.webhooks.follow(hooks_of(settings))
        self.outage.allow_sessions = settings.sessions.on_outage == "allow"
        self.key_sets.follow(
            {
                name: (Source(str(section.jwt.jwks_url), section.jwt.jwks_alg), policy.directory.tenants[name].ring)
                for name, section in settings.tenants.items()
                if section.jwt.jwks_url is not None
            }
        )

    def gate(self, operations: dict[object, keys.Operation]) -> keys.Gate:
        """What requests ask of this."""
        return keys.Gate(
            policy=self.policy,
            verified=self.verified,
            metrics=self.metrics,
            repeats=self.repeats,
            pulse=self.pulse,
            operations=operations,
            ask=self.admissions.ask,
            start=self.admissions.start,
            without_store=self.outage.decide,
            refetch_keys=self.key_sets.refetch,
            is_down=lambda: self.ways.is_down,
            is_ready=self.is_ready,
        )

    def redis_changed(self, up: bool) -> None:
        """Redis went away, or is back. Streams end: they would fall silent, and look live."""
        self.metrics.redis_up.set(up)
        if not up:
            self.news.close()

    def count_swept(self, tenant: str, expired: int, removed: int) -> None:
        """Count what the sweep did to a tenant."""
        self.metrics.count_swept(expired, removed)
        self.pulse.transition(tenant, expired)

    async def is_ready(self) -> bool:
        """Whether Redis answers now."""
        if self.ways.is_down:
            return False
        try:
            async with asyncio.timeout(self.settings.redis.timeout):
                return bool(await self.access.client.ping())
        except AWAY:
            return False

    async def pour(self) -> None:
        """Hand what was counted for the charts to Redis; while it is away, that is lost."""
        for tenant, beat in self.pulse.take().items():
            with suppress(StoreUnavailable):
                await self.pulses.pour(tenant, beat)

    async def pour_forever(self) -> None:
        """Once a second."""
        while True:
            await asyncio.sleep(POUR_EVERY_S)
            if not self.ways.is_down:
                await self.pour()

    async def hush(self, _: web.Application) -> None:
        """For `on_shutdown`: end the answers that would go on for ever."""
        self.news.close()

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`: what runs beside the requests."""
        await self.ways.open()
        beside: dict[str, Callable[[], Awaitable[None]]] = {
            "sweep": self.sweeper.run_forever,
            "key sets": self.key_sets.run_forever,
            "metrics": self.metrics.run_forever,
            "repeats": self.repeats.run_forever,
            "refusals": lambda: self.admissions.refusals.listen_forever(self.access.client),
            "news": self.news.run_forever,
            "charts": self.pour_forever,
            "webhooks": self.webhooks.run_forever,
        }
        tasks = [asyncio.create_task(keep_running(name, work)) for name, work in beside.items()]
        yield
        await end(tasks)
        self.metrics.pour()
        self.repeats.tell()
        await self.pour()
        with suppress(StoreUnavailable):
            await self.sweeper.release()
        await self.admissions.close()
        await self.ways.close()
        await self.access.close()


RUNTIME = web.AppKey("RUNTIME", Runtime)


def make_app(settings: Settings, access: RedisAccess) -> web.Application:
    """The application, from settings that were validated and a way to Redis. Reads files: not for the event loop."""
    runtime = Runtime(settings, access)
    operations: dict[object, keys.Operation] = {auth.logout: LOGOUT, auth.status: STATUS, auth.terminate: TERMINATE}
    gate = runtime.gate({**operations, **dict(forward_auth.PROFILES.values())})
    middlewares = Middlewares(gate)
    app = web.Application(
        middlewares=[middlewares.problems, middlewares.authentication], client_max_size=MAX_BODY_BYTES
    )
    app[RUNTIME] = runtime
    app[keys.GATE] = gate
    app[SHORT_WAY] = _short_way(middlewares)
    app[keys.SESSIONS] = runtime.sessions
    app[keys.HISTORIES] = runtime.events
    app[keys.ACTS] = runtime.acts
    app[keys.FEEDS] = runtime.news
    app[keys.PULSES] = runtime.pulses
    app[keys.HOOKS] = runtime.hooks
    _add_routes(app)
    loader = jinja2.PackageLoader("service.web", "templates")
    pages = aiohttp_jinja2.setup(
        app, loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, auto_reload=False
    )
    for name in loader.list_templates():
        pages.get_template(name)  # read now: no request waits for the disk
    app.cleanup_ctx.append(runtime.run)
    app.on_shutdown.append(runtime.hush)
    return app


def _short_way(middlewares: Middlewares) -> ShortWay:
    """For what is asked at the full rate."""

    def way(operation: keys.Operation, answer: keys.Prompt) -> Way:
        return Way(operation, answer, middlewares.around(operation, answer))

    logout = way(LOGOUT, auth.logged_out)
    by_method = {
        ("GET", "/auth/status"): way(STATUS, auth.standing),
        ("GET", "/auth/logout"): logout,
        ("POST", "/auth/logout"): logout,
    }
    profiles = forward_auth.PROFILES.items()
    verify = {path: way(operation, forward_auth.verified) for path, (_, operation) in profiles}
    behind, envoy = f"{forward_auth.ENVOY}/", verify[forward_auth.ENVOY]

    def find(method: str, path: str) -> Way | None:
        # Envoy's request goes no other way: the router would resolve the dots of a path that is another's.
        return verify.get(path) or by_method.get((method, path)) or (envoy if path.startswith(behind) else None)

    return ShortWay(middlewares, find)


def _add_routes(app: web.Application) -> None:
    with as_file(files("service.web") / "static") as static, as_file(files("swagger_ui") / "static") as reader:
        app.add_routes(
            [
                web.get("/auth/logout", auth.logout, allow_head=False),
                web.post("/auth/logout", auth.logout),
                web.options("/auth/logout", cors.preflight),
                web.get("/auth/status", auth.status),
                web.options("/auth/status", cors.preflight),
                *(web.route("*", path, handler) for path, (handler, _) in forward_auth.PROFILES.items()),
                web.post("/auth/terminate", auth.terminate),
                web.options("/auth/terminate", cors.preflight),
                *admin.routes("/admin/v1"),
                *admin.routes(API),
                web.get("/healthz", health.healthz),
                web.get("/readyz", health.readyz),
                web.get("/metrics", health.metrics),
                web.get(ROOT, dashboard.overview),
                web.get(f"{ROOT}/user", dashboard.user),
                web.get(f"{ROOT}/rules", dashboard.rules),
                web.get(f"{ROOT}/login", dashboard.login_form),
                web.post(f"{ROOT}/login", dashboard.login),
                web.post(f"{ROOT}/logout", dashboard.logout),
                web.get(f"{ROOT}/static/{{name:.+}}", files_of(static)),
                web.get("/openapi.json", docs.described),
                web.get(docs.ROOT, docs.reader),
                web.get(f"{docs.ROOT}/ui/{{name:.+}}", files_of(reader)),
            ]
        )


def make_policy(settings: Settings) -> Policy:
    """What requests are judged by. Reads key files and stretches the cookie key: not for the event loop."""
    operators = tuple(
        Operator(one.name, one.digest, one.role == "operator", frozenset(one.tenants)) for one in settings.admin.tokens
    )
    tokens = b"".join(sorted(operator.token_digest for operator in operators))
    metrics_token = settings.metrics.token
    metrics_digest = None if metrics_token is None else digest(metrics_token.get_secret_value())
    tenants = (section.digest for section in settings.tenants.values())
    return Policy(
        directory=_directory(settings),
        client_address=ClientAddressRules(
            settings.server.trusted_proxies, istr(settings.server.client_address), settings.server.ipv6_prefix
        ),
        operators=operators,
        # Stretched: whoever holds a cookie must not be able to try out tokens against its signature.
        cookie_key=hashlib.scrypt(tokens, salt=b"rollcall dashboard cookie", n=2**14, r=8, p=1),
        cors_origins=frozenset(settings.server.cors_origins),
        access_log=settings.server.access_log,
        metrics_token_digest=metrics_digest,
        secrets=frozenset([*tenants, *(one.token_digest for one in operators), *filter(None, [metrics_digest])]),
    )


def hooks_of(settings: Settings) -> list[Hook]:
    """All webhooks."""
    return [
        Hook(name, one.name, str(one.url), key_of(one.secret.get_secret_value()), frozenset(one.events))
        for name, tenant in settings.tenants.items()
        for one in tenant.webhooks
    ]


def session_rules(settings: Settings) -> SessionRules:
    """`sessions:` as the admission reads it."""
    sessions = settings.sessions
    return SessionRules(sessions.seen_every * 1000, sessions.logout_grace * 1000)


def sweep_rules(settings: Settings) -> SweepRules:
    """What the sweep has to know."""
    leeways_ms = {name: int(tenant.jwt.leeway * 1000) for name, tenant in settings.tenants.items()}
    return SweepRules(leeways_ms, settings.sessions.retention * 1000)


def _directory(settings: Settings) -> Directory:
    for_all = [_route(one) for one in settings.routes]
    table = RouteTable(for_all)

    def protected(terms: Terms, section: TenantSection | None = None) -> Protected | None:
        own = [_route(one) for one in section.routes] if section is not None else []
        if not own and not for_all:
            return None
        restricted = section.restricted_capabilities if section is not None else ()
        return Protected(RouteTable([*own, *for_all]) if own else table, terms, restricted)

    tenants = []
    for name, section in settings.tenants.items():
        terms = _terms(settings, name, section)
        restricted = frozenset(section.restricted_capabilities)
        routes = protected(terms["verify"], section)
        webhooks = tuple(one.name for one in section.webhooks)
        tenants.append(Tenant(name, section.digest, _ring(name, section), terms, routes, restricted, webhooks))
    terms = _terms(settings)
    return Directory(tenants, terms, protected(terms["verify"]))


def _ring(name: str, section: TenantSection) -> KeyRing:
    jwt = section.jwt
    return KeyRing(
        name,
        [key.key() for key in jwt.keys],
        issuer=jwt.issuer,
        audience=jwt.audiences,
        leeway_s=jwt.leeway,
    )


def _terms(settings: Settings, name: str | None = None, tenant: TenantSection | None = None) -> dict[str, Terms]:
    restricted = tenant.restricted_capabilities if tenant is not None else ()
    return {
        operation: Terms(
            name,
            operation,
            _limits(settings, operation, tenant),
            capabilities=(operation,),
            restricted=operation if operation in restricted else None,
            cause=Cause.LOGOUT if operation == "logout" else Cause.REQUEST,
        )
        for operation in OPERATIONS
    }


def _route(section: RouteSection) -> Route:
    return Route(
        pattern=tuple(filter(None, section.path.split("/"))),
        methods=frozenset(section.methods or ()),
        capability=section.capability,
        limits=tuple(map(_limit, section.limits)),
        open=section.open,
    )


def _limits(settings: Settings, operation: str, tenant: TenantSection | None = None) -> tuple[Limit, ...]:
    """The limits of an operation: the top-level ones, each replaced by the tenant's of the same name."""
    own = {limit.name: limit for limit in getattr(tenant.limits, operation, ())} if tenant is not None else {}
    merged = {limit.name: limit for limit in getattr(settings.limits, operation)} | own
    return tuple(map(_limit, merged.values()))


def _limit(section: LimitSection) -> Limit:
    return Limit(
        name=section.name,
        per=section.per,
        requests=section.requests,
        window_s=section.window,
        shadow=section.shadow,
        on_outage=section.on_outage,
    )
