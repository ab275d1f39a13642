"""Checks between settings that are each valid: mistakes, and doubts about what is probably not intended.

The type and the range of a single setting are in `settings.py` and `jwt_settings.py`.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.config.jwt_settings import Jwt
from service.config.setting_types import doubtful_secret
from service.config.settings import LimitSection, RouteSection, Settings, TenantLimits, TenantSection
from service.core.tenants import digest
from service.core.tokens.keys import HASH_BYTES
from service.core.webhooks import PREFIX

SHIPPED_SECRETS = frozenset(
    {
        "demo-tenant-token",
        "demo-operator-token",
        "demo-viewer-token",
        "demo-signing-secret-for-trying-out-only",
    }
)
"""The secrets of the shipped config.yaml. They are public, so the service accepts them on loopback only."""
ONLY_LOOPBACK = "with the secrets of the shipped config.yaml only loopback is served; set secrets of your own first"


GUESSABLE_CHARS = 16
"""The length below which a tenant's token is a doubt."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in the configuration."""

    path: str
    what: str
    value: str
    """The value as given, or *** for a secret."""
    variable: str = ""
    """The variable that set it; empty: the file did."""

    def __str__(self) -> str:
        place = f"{self.path} (set by {self.variable})" if self.variable else self.path
        return f"{place}: {self.what}" + (f" (value: {self.value})" if self.value else "")


def cross_checks(settings: Settings, tenants: Collection[str] = ()) -> list[Mistake]:
    """Return the mistakes between settings that are each valid: names, tokens, public secrets.

    `tenants` are configured as well, though something is wrong with them.
    """
    return [
        *_shared_tokens(settings),
        *_limit_names(settings),
        *_route_limits(settings),
        *_operators(settings, tenants),
        *_shipped_secrets(settings),
    ]


def _shared_tokens(settings: Settings) -> Iterator[Mistake]:
    """Check that a token names one tenant or one operator: clients have the tenant's, so they would be operators."""
    owners: dict[bytes, str] = {}
    for name, tenant in settings.tenants.items():
        if (other := owners.setdefault(tenant.digest, name)) != name:
            yield Mistake(
                f"tenants.{name}.token", f"is also that of {other}: give each tenant a token of its own", "***"
            )
    owners = {digest: f"the tenant {name}" for digest, name in owners.items()}
    for at, operator in enumerate(settings.admin.tokens):
        other = owners.setdefault(operator.digest, own := f"admin.tokens.{at}")
        if other != own:
            what = f"is also that of {other}: give each operator a token of its own"
            yield Mistake(f"{own}.token", what, "***")


def _limit_names(settings: Settings) -> Iterator[Mistake]:
    """Check that limits, which are counted by name, have one operation for each name."""
    places: dict[str, str] = {}
    for operation, limit in _limits_of(settings.limits):
        if limit.name in places:
            yield _counted_twice(f"limits.{operation}", limit.name, places[limit.name])
        places.setdefault(limit.name, operation)
    for name, tenant in settings.tenants.items():
        own: dict[str, str] = {}
        for operation, limit in _limits_of(tenant.limits):
            place = own.get(limit.name) or places.get(limit.name, operation)
            if limit.name in own or place != operation:
                path = f"tenants.{name}.limits.{operation}"
                yield _counted_twice(path, limit.name, place)
            own[limit.name] = operation


def _counted_twice(path: str, name: str, place: str) -> Mistake:
    return Mistake(path, f"{name} is already in {place}: limits count by name, so choose another", name)


def _route_limits(settings: Settings) -> Iterator[Mistake]:
    """Check that routes which share a limit, and so its counter, have the same values for it."""
    at_top = {limit.name for _, limit in _limits_of(settings.limits)}
    own = {name: {limit.name for _, limit in _limits_of(one.limits)} for name, one in settings.tenants.items()}
    for_all: dict[str, LimitSection] = {}
    yield from _route_limits_in("routes", settings.routes, at_top.union(*own.values()), for_all)
    for name, tenant in settings.tenants.items():
        yield from _route_limits_in(f"tenants.{name}.routes", tenant.routes, at_top | own[name], dict(for_all))


def _route_limits_in(
    path: str, routes: Sequence[RouteSection], taken: set[str], shared: dict[str, LimitSection]
) -> Iterator[Mistake]:
    for at, route in enumerate(routes):
        for limit in route.limits:
            if limit.name in taken:
                yield Mistake(f"{path}.{at}.limits", "counts for an operation; give it another name", limit.name)
            elif shared.setdefault(limit.name, limit) != limit:
                what = "has other values in another route; routes that share a limit need the same values"
                yield Mistake(f"{path}.{at}.limits", what, limit.name)


def doubts(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting that is valid but probably not intended."""
    sections = {f"tenants.{name}.": tenant for name, tenant in settings.tenants.items()}
    routes = [*settings.routes, *(route for tenant in sections.values() for route in tenant.routes)]
    if routes and not settings.server.trusted_proxies:
        yield "routes are configured, but server.trusted_proxies is empty: /auth/verify answers 400"
    redis, unset = settings.redis, type(settings.redis.tls)()
    if redis.tls != unset and not redis.url.startswith("rediss"):
        yield "redis.tls is set, but redis.url does not begin with rediss: the connection is not encrypted"
    scraper = settings.metrics.given_token
    if scraper is not None and digest(scraper.get_secret_value()) in {one.digest for one in settings.admin.tokens}:
        yield "metrics.token is also an operator's: whoever reads the metrics has the operator's rights"
    for path, tenant in sections.items():
        if (token := tenant.given_token) is not None and len(token.get_secret_value()) < GUESSABLE_CHARS:
            yield f"{path}token has fewer than {GUESSABLE_CHARS} characters: short enough to be guessed"
    yield from _doubtful_secrets(sections)
    for path, tenant in sections.items():
        for operation in type(tenant.limits).model_fields:
            lifted = operation in tenant.limits.model_fields_set and not getattr(tenant.limits, operation)
            if lifted and getattr(settings.limits, operation):
                yield (
                    f"{path}limits.{operation} is an empty list: the top-level limits of {operation} do not apply to "
                    "this tenant (before this version an empty list changed nothing)"
                )
    for path, tenant in sections.items():
        for block_path, jwt in _blocks(path, tenant):
            if jwt.jwks_url is not None and jwt.issuer is None and not jwt.audiences and not jwt.require:
                yield (
                    f"{block_path}: the keys come from jwks_url, and none of issuer, audience and require is set: any "
                    "token that they sign is accepted, also one for another application; set what your tokens have in "
                    "common"
                )
            yield from _doubtful_keys(block_path, jwt)
    for path, tenant in sections.items():
        for at, webhook in enumerate(tenant.webhooks):
            name = "secret" if webhook.secret else "secret_file"
            secrets = webhook.secret or webhook.secret_file
            if not all(secret.get_secret_value().startswith(PREFIX) for secret in secrets):
                yield (
                    f"{path}webhooks.{at}.{name} does not begin with {PREFIX}: the service signs with the text itself, "
                    "but libraries for Standard Webhooks decode every secret as base64, and so refuse the messages; "
                    f"`rollcall webhook secret` prints one that both read alike"
                )
    known = {*type(settings.limits).model_fields, *(route.capability for route in routes)}
    for path, tenant in sections.items():
        for capability in tenant.restricted_capabilities:
            if capability not in known:
                yield f"{path}restricted_capabilities: no operation and no route needs {capability}"


def _blocks(path: str, tenant: TenantSection) -> Iterator[tuple[str, Jwt]]:
    """Yield each block of a tenant's `jwt` with its path."""
    for at, block in enumerate(tenant.issuers):
        yield (f"{path}jwt" if isinstance(tenant.jwt, Jwt) else f"{path}jwt.{at}"), block


def _doubtful_keys(path: str, jwt: Jwt) -> Iterator[str]:
    if jwt.jwks_alg is not None:
        yield f"{path}.jwks_alg is deprecated: write algorithms: [{jwt.jwks_alg}]"
    for at, key in enumerate(jwt.keys):
        possible = [one.alg for one in key.prepared]
        if len(possible) > 1 and jwt.algorithms is None:
            accepted = f"{path}.keys.{at} names no alg, so {', '.join(possible)} are accepted"
            yield f"{accepted}: write the one that your issuer signs with, such as alg: {possible[0]}"
        secret = key.signing_secret
        if secret is None or (len(possible) > 1 and jwt.algorithms is None):
            continue
        for alg in possible:
            hash_bytes = HASH_BYTES[alg] if jwt.algorithms is None or alg in jwt.algorithms else 0
            if len(secret) < hash_bytes:  # RFC 7518, section 3.2
                yield f"{path}.keys.{at}: a secret for {alg} should have {hash_bytes} bytes; this has {len(secret)}"


def _doubtful_secrets(sections: Mapping[str, TenantSection]) -> Iterator[str]:
    """Yield doubts about signing secrets: they may be any bytes, but seldom have a newline or quotes."""
    for path, tenant in sections.items():
        secrets = [
            (f"{block_path}.keys.{at}.{name}", secret)
            for block_path, jwt in _blocks("", tenant)
            for at, key in enumerate(jwt.keys)
            for name, secret in (("secret", key.secret), ("secret_file", key.secret_file))
            if secret is not None
        ]
        for at, webhook in enumerate(tenant.webhooks):
            secrets += [(f"webhooks.{at}.secret", secret) for secret in webhook.secret]
            secrets += [(f"webhooks.{at}.secret_file", secret) for secret in webhook.secret_file]
        for name, secret in secrets:
            if (doubt := doubtful_secret(secret.get_secret_value())) is not None:
                yield f"{path}{name} {doubt}; every byte is part of the secret"


def _limits_of(section: TenantLimits) -> Iterator[tuple[str, LimitSection]]:
    for operation in type(section).model_fields:
        for limit in getattr(section, operation):
            yield operation, limit


def _operators(settings: Settings, tenants: Collection[str]) -> Iterator[Mistake]:
    names: set[str] = set()
    for at, operator in enumerate(settings.admin.tokens):
        if operator.name in names:
            yield Mistake(
                f"admin.tokens.{at}.name",
                "appears twice: events name an operator by it, so choose another",
                operator.name,
            )
        names.add(operator.name)
        for unknown in sorted(set(operator.tenants) - {"*", *settings.tenants, *tenants}):
            yield Mistake(f"admin.tokens.{at}.tenants", "names a tenant that is not configured", unknown)


def _shipped_secrets(settings: Settings) -> Iterator[Mistake]:
    if not all(map(is_loopback, settings.server.hosts)) and has_shipped_secrets(settings):
        yield Mistake("server.host", ONLY_LOOPBACK, ", ".join(settings.server.hosts))


def has_shipped_secrets(settings: Settings) -> bool:
    """Return whether one of the public secrets of the shipped config.yaml is in use."""
    digests = {tenant.digest for tenant in settings.tenants.values()} | {one.digest for one in settings.admin.tokens}
    keys = {key.signing_secret for one in settings.tenants.values() for block in one.issuers for key in block.keys}
    shipped = {secret.encode() for secret in SHIPPED_SECRETS}
    return bool(keys & shipped or digests & {digest(secret) for secret in SHIPPED_SECRETS})


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
