"""Construction of the policy, and of the store's rules, from the settings."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from multidict import istr

from service.background.key_set_refresh import Source
from service.config.jwt_settings import Jwt
from service.config.settings import OPERATIONS, LimitSection, RouteSection, Settings, TenantLimits, TenantSection
from service.core.admission import Terms
from service.core.limits import Limit
from service.core.routing.routes import Protected, Route, RouteTable
from service.core.sessions import Cause
from service.core.tenants import Directory, Tenant, TermsByOperation, digest
from service.core.tokens.claims import ClaimRules
from service.core.tokens.issuers import Issuers
from service.core.tokens.keys import ALGORITHMS
from service.core.tokens.kinds import TokenRules
from service.core.tokens.verification import KeyRing
from service.core.webhooks import Webhook
from service.store.admissions.batcher import SessionRules
from service.store.sessions.expiry_sweep import SweepRules
from service.web.api.client_address import ClientAddressRules, ipv4_of
from service.web.policy import Operator, Policy


def make_policy(settings: Settings) -> Policy:
    """Return the policy. It reads key files and stretches the cookie key: do not call it in the event loop."""
    operators = tuple(
        Operator(one.name, one.digest, one.role == "operator", frozenset(one.tenants)) for one in settings.admin.tokens
    )
    tokens = b"".join(sorted(operator.token_digest for operator in operators))
    metrics_token = settings.metrics.given_token
    metrics_digest = None if metrics_token is None else digest(metrics_token.get_secret_value())
    tenants = (section.digest for section in settings.tenants.values())
    # Stretched: whoever holds a cookie must not be able to try out tokens against its signature.
    cookie_key = hashlib.scrypt(tokens, salt=b"rollcall dashboard cookie", n=2**14, r=8, p=1)
    about = f"{settings.server.base_path} {settings.redis.namespace} ".encode() + cookie_key
    return Policy(
        directory=_directory(settings),
        client_address=ClientAddressRules(
            tuple(map(ipv4_of, settings.server.trusted_proxies)),
            istr(settings.server.client_address),
            settings.server.ipv6_prefix,
        ),
        operators=operators,
        cookie_key=cookie_key,
        cookie_name=f"rollcall-{hashlib.sha256(about).hexdigest()[:8]}",
        cors_origins=frozenset(settings.server.cors_origins),
        cors_headers=tuple(dict.fromkeys(name.lower() for name in settings.server.cors_headers)),
        access_log=settings.server.access_log,
        metrics_token_digest=metrics_digest,
        secrets=frozenset([*tenants, *(one.token_digest for one in operators), *filter(None, [metrics_digest])]),
    )


def webhooks_of(settings: Settings) -> list[Webhook]:
    """Return all webhooks."""
    return [
        Webhook(name, one.name, str(one.url), one.keys, frozenset(one.events), settings.webhooks.give_up_after)
        for name, tenant in settings.tenants.items()
        for one in tenant.webhooks
    ]


def session_rules(settings: Settings) -> SessionRules:
    """Return the settings under `sessions:` that the admission needs."""
    sessions = settings.sessions
    return SessionRules(sessions.seen_every * 1000, sessions.logout_grace * 1000)


def sweep_rules(settings: Settings) -> SweepRules:
    """Return the settings that the sweep needs."""
    leeways_s = {name: max(block.leeway for block in one.issuers) for name, one in settings.tenants.items()}
    leeways_ms = {name: int(leeway_s * 1000) for name, leeway_s in leeways_s.items()}
    sessions = settings.sessions
    return SweepRules(leeways_ms, sessions.retention * 1000, sessions.max_token_lifetime * 1000)


def _directory(settings: Settings) -> Directory:
    for_all = [_route(one) for one in settings.routes]
    table = RouteTable(for_all)
    limits = {operation: _limits(getattr(settings.limits, operation)) for operation in OPERATIONS}

    def protected(terms: TermsByOperation, section: TenantSection | None = None) -> Protected | None:
        own = [_route(one) for one in section.routes] if section is not None else []
        if not own and not for_all:
            return None
        restricted = section.restricted_capabilities if section is not None else ()
        return Protected(RouteTable([*own, *for_all]) if own else table, terms["verify"], restricted)

    tenants = []
    for name, section in settings.tenants.items():
        restricted = frozenset(section.restricted_capabilities)
        make = partial(_terms, name, restricted, settings.sessions.status_is_passive)
        terms = TermsByOperation(_limits_of(section.limits, limits), make)
        routes = protected(terms, section)
        webhooks = tuple(one.name for one in section.webhooks)
        tenants.append(Tenant(name, section.digest, _verifier(name, section), terms, routes, restricted, webhooks))
    terms = TermsByOperation(limits, partial(_terms, None, frozenset(), False))
    return Directory(tenants, terms, protected(terms))


def _verifier(name: str, section: TenantSection) -> KeyRing | Issuers:
    prefixes = [block.user_prefix for block in section.issuers]
    rings = [_ring(name, block, prefixes) for block in section.issuers]
    return rings[0] if len(rings) == 1 else Issuers(rings)


def _ring(name: str, jwt: Jwt, prefixes: Sequence[str]) -> KeyRing:
    claims = ClaimRules(
        name,
        issuer=jwt.issuer,
        audience=jwt.audiences,
        leeway_s=jwt.leeway,
        subject_claim=jwt.subject_claim,
        integer_sub=jwt.integer_sub,
        tenant_claim=jwt.tenant_claim,
        accept_bound_tokens=jwt.accept_bound_tokens,
        user_prefix=jwt.user_prefix,
        reserved_prefixes=prefixes,
        rules=TokenRules(jwt.types, jwt.require),
    )
    return KeyRing(
        name,
        jwt.verification_keys,
        claims,
        algorithms=ALGORITHMS if jwt.algorithms is None else jwt.algorithms,
        allow_unknown_kid=jwt.allow_unknown_kid,
    )


def key_sources(settings: Settings, directory: Directory) -> list[tuple[Source, KeyRing]]:
    """Return every key set that is fetched, and the ring that its keys go to."""
    found = []
    for name, section in settings.tenants.items():
        verifier = directory.tenants[name].ring
        rings = verifier.rings if isinstance(verifier, Issuers) else (verifier,)
        for block, ring in zip(section.issuers, rings, strict=True):
            if isinstance(ring, KeyRing) and (block.jwks_url is not None or block.discovery):
                url = str(block.jwks_url) if block.jwks_url is not None else ""
                issuer = block.issuer if block.discovery else None
                found.append((Source(url, block.key_rules, issuer, block.jwks_max_age), ring))
    return found


def _terms(
    tenant: str | None,
    restricted: frozenset[str],
    status_is_passive: bool,
    operation: str,
    limits: tuple[Limit, ...],
) -> Terms:
    return Terms(
        tenant,
        operation,
        limits,
        capabilities=(operation,),
        restricted=operation if operation in restricted else None,
        cause=Cause.LOGOUT if operation == "logout" else Cause.REQUEST,
        passive=status_is_passive and operation == "status",
    )


def _route(section: RouteSection) -> Route:
    return Route(
        pattern=tuple(filter(None, section.path.split("/"))),
        methods=frozenset(section.methods or ()),
        capability=section.capability,
        limits=tuple(map(_limit, section.limits)),
        open=section.open,
    )


def _limits_of(own: TenantLimits, top: Mapping[str, tuple[Limit, ...]]) -> Mapping[str, tuple[Limit, ...]]:
    """Return the limits of a tenant by operation: the top-level ones, replaced by the tenant's of the same name.

    An empty list of the tenant lifts the top-level limits of that operation.
    """
    changed = own.model_fields_set
    if not changed:
        return top
    found = dict(top)
    for operation in changed:
        limits = _limits(getattr(own, operation))
        merged = {limit.name: limit for limit in (*top[operation], *limits)} if limits else {}
        found[operation] = tuple(merged.values())
    return found


def _limits(sections: Iterable[LimitSection]) -> tuple[Limit, ...]:
    return tuple(map(_limit, sections))


def _limit(section: LimitSection) -> Limit:
    return Limit(
        name=section.name,
        per=section.per,
        requests=section.requests,
        window_s=section.window,
        shadow=section.shadow,
        on_outage=section.on_outage,
    )
