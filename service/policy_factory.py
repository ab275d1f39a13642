"""Settings → what requests are judged by: the policy, and what the store has to know."""

import hashlib

from multidict import istr

from service.config.settings import OPERATIONS, LimitSection, RouteSection, Settings, TenantSection
from service.core.admission import Terms
from service.core.limits import Limit
from service.core.routing.routes import Protected, Route, RouteTable
from service.core.sessions import Cause
from service.core.tenants import Directory, Tenant, digest
from service.core.tokens.claims import ClaimRules
from service.core.tokens.kinds import TokenRules
from service.core.tokens.verification import KeyRing
from service.core.webhooks import Webhook
from service.store.admissions.batcher import SessionRules
from service.store.sessions.expiry_sweep import SweepRules
from service.web.api.client_address import ClientAddressRules, ipv4_of
from service.web.policy import Operator, Policy


def make_policy(settings: Settings) -> Policy:
    """What requests are judged by. Reads key files and stretches the cookie key: not for the event loop."""
    operators = tuple(
        Operator(one.name, one.digest, one.role == "operator", frozenset(one.tenants)) for one in settings.admin.tokens
    )
    tokens = b"".join(sorted(operator.token_digest for operator in operators))
    metrics_token = settings.metrics.given_token
    metrics_digest = None if metrics_token is None else digest(metrics_token.get_secret_value())
    tenants = (section.digest for section in settings.tenants.values())
    return Policy(
        directory=_directory(settings),
        client_address=ClientAddressRules(
            tuple(map(ipv4_of, settings.server.trusted_proxies)),
            istr(settings.server.client_address),
            settings.server.ipv6_prefix,
        ),
        operators=operators,
        # Stretched: whoever holds a cookie must not be able to try out tokens against its signature.
        cookie_key=hashlib.scrypt(tokens, salt=b"rollcall dashboard cookie", n=2**14, r=8, p=1),
        cors_origins=frozenset(settings.server.cors_origins),
        cors_headers=tuple(dict.fromkeys(name.lower() for name in settings.server.cors_headers)),
        access_log=settings.server.access_log,
        metrics_token_digest=metrics_digest,
        secrets=frozenset([*tenants, *(one.token_digest for one in operators), *filter(None, [metrics_digest])]),
    )


def webhooks_of(settings: Settings) -> list[Webhook]:
    """All webhooks."""
    return [
        Webhook(name, one.name, str(one.url), one.keys, frozenset(one.events), settings.webhooks.give_up_after)
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
    claims = ClaimRules(
        name,
        issuer=jwt.issuer,
        audience=jwt.audiences,
        leeway_s=jwt.leeway,
        subject_claim=jwt.subject_claim,
        integer_sub=jwt.integer_sub,
        tenant_claim=jwt.tenant_claim,
        accept_bound_tokens=jwt.accept_bound_tokens,
        rules=TokenRules(jwt.types, jwt.require),
    )
    return KeyRing(name, [key.key() for key in jwt.keys], claims)


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
