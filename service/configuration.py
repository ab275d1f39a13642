"""Loading `settings.Settings`: the file, the environment over it, and every mistake told at once.

pydantic-settings reads both layers. What is added here: a variable replaces what stands at its path whole;
a key that stands twice in the file, a variable that names nothing and JSON that is none are mistakes like
any other; and a message never holds a secret.
"""

import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    YamlConfigSettingsSource,
)

from service.core.tenants import digest
from service.settings import ENV_PREFIX, SECRET_NAMES, LimitSection, RouteSection, Settings, TenantLimits, secrets_of

SHIPPED_SECRETS = frozenset(
    {
        "demo-tenant-token",
        "demo-operator-token",
        "demo-viewer-token",
        "demo-signing-secret-for-trying-out-only",
    }
)
"""What the shipped config.yaml holds. Everybody knows these, so they are good for loopback alone."""


GUESSABLE_CHARS = 16
"""Of a tenant's token: below that it is told as a doubt."""
HOLD_NO_SECRETS = (["server"], ["sessions"], ["limits"], ["routes"])
_NOT_A_VALUE = ("extra_forbidden", "model_type", "model_attributes_type", "list_type", "tuple_type", "dict_type")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with the configuration."""

    path: str
    what: str
    value: str
    """As it was given, or *** where it is a secret."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" + (f" (value: {self.value})" if self.value else "")


class ConfigurationError(Exception):
    """The configuration cannot be used. Holds every mistake that was found."""

    def __init__(self, source: str, mistakes: Iterable[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        return f"{self.source}: {len(self.mistakes)} mistake{'s' * (len(self.mistakes) != 1)}\n{lines}"


def load(path: Path) -> Settings:
    """Read the configuration.

    Raises:
        ConfigurationError: it cannot be used; tells all mistakes.
    """
    raw = _read_file(path)

    class Layers(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **__: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return _Environment(settings_cls), _File(settings_cls, path)

    mistakes = _unknown_variables()
    try:
        secrets = secrets_of(raw)
        settings = Layers()
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        mistakes += [_told(one, secrets) for one in wrong]
        given = _merged(_File(Layers, path)(), _Environment(Layers)())
        mistakes += cross_checks_of_the_rest(given, [one["loc"] for one in wrong])
    except (RecursionError, TypeError, AttributeError) as error:
        mistakes.append(Mistake("file", f"is built in a way that cannot be read ({type(error).__name__})", ""))
    else:
        mistakes += cross_checks(settings)
    if mistakes:
        raise ConfigurationError(str(path), mistakes)
    return settings


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """Leave what is not JSON as it is: it is then told with its path, like every other mistake."""
        try:
            return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]  # as they call it
        except ValueError:
            return value


class _File(YamlConfigSettingsSource):
    """The file, without what the environment replaces."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls, yaml_file=path)

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        values = _read_file(Path(file_path))
        for name in _variables():
            *parents, last = name
            place: Any = values
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place.pop(last, None)
        return values


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as it is meant: a key that stands twice is a mistake, not the loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, _UniqueKeyLoader)  # noqa: S506  # nosec B506  # it is a SafeLoader
    except OSError as error:
        raise ConfigurationError(str(path), [Mistake("file", error.strerror or "cannot be read", str(path))]) from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML lets through what its constructors stumble over: a date in month 13, a number without digits.
        raise ConfigurationError(str(path), [Mistake("file", f"is not YAML: {_where(error)}", "")]) from None
    if not isinstance(values, dict | None):
        kind = type(values).__name__
        raise ConfigurationError(str(path), [Mistake("file", "must hold a map of settings", f"a {kind}")])
    return {str(name): value for name, value in (values or {}).items()}


def _where(error: Exception) -> str:
    """What is wrong and where, without quoting the file: it holds secrets."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    unread = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "a value is none of its kind; quote it"
    problem = getattr(error, "problem", None) or unread
    if type(error) is not yaml.MarkedYAMLError:  # not ours: it quotes what stands there, which may be a secret
        problem = re.sub(r"'[^']*'|\"[^\"]*\"", "…", problem)
    return f"{problem}{place}"


def _variables() -> list[tuple[str, ...]]:
    """The paths that the environment sets."""
    return [
        tuple(name[len(ENV_PREFIX) :].lower().split("__")) for name in os.environ if name.upper().startswith(ENV_PREFIX)
    ]


def _unknown_variables() -> list[Mistake]:
    """Those under a known section are found by the types; these name no section at all."""
    known = Settings.model_fields
    return [
        Mistake(ENV_PREFIX + "__".join(path).upper(), f"there is no such section; known are {', '.join(known)}", "")
        for path in _variables()
        if path[0] not in known
    ]


def cross_checks(settings: Settings, tenants: Collection[str] = ()) -> list[Mistake]:
    """What is wrong between settings that are each well-formed: names, tokens, and secrets that everybody knows.

    `tenants` are configured as well, though something is wrong with them.
    """
    return [
        *_shared_tokens(settings),
        *_limit_names(settings),
        *_route_limits(settings),
        *_operators(settings, tenants),
        *_shipped_secrets(settings),
    ]


def _merged(file: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(file)
    for name, value in variables.items():
        both = isinstance(value, Mapping) and isinstance(made.get(name), Mapping)
        made[name] = _merged(made[name], value) if both else value
    return made


class _AsGiven(Settings):
    """Settings from what is passed in, and from nowhere else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def cross_checks_of_the_rest(given: dict[str, Any], wrong: Sequence[tuple[int | str, ...]]) -> list[Mistake]:
    """The cross-checks of what is left when everything that is wrong by itself is taken out.

    So that whoever mends a file is told of all its mistakes at once. What cannot stand without the part that
    is wrong goes with it: the key, then the tenant.
    """
    named = given.get("tenants")
    tenants = [str(name) for name in named] if isinstance(named, dict) else []
    for _ in range(8):
        for place in sorted(wrong, key=str, reverse=True):  # the later elements of a list first
            _take_out(given, place)
        try:
            return cross_checks(_AsGiven(**given), tenants)
        except ValidationError as error:
            wrong = [one["loc"][:-1] if one["type"] == "missing" else one["loc"] for one in error.errors()]
    return []


def _take_out(given: Any, place: tuple[int | str, ...]) -> None:
    """Remove what stands at `place`, or the innermost part of the way that is there."""
    way = [part for part in place if part != "[key]"]
    for part in way[:-1]:
        inside = given.get(part) if isinstance(given, dict) else None
        if isinstance(given, list) and isinstance(part, int) and part < len(given):
            inside = given[part]
        if not isinstance(inside, dict | list):
            break
        given = inside
    else:
        part = way[-1] if way else ""
    if isinstance(given, dict):
        given.pop(part, None)
    elif isinstance(given, list) and isinstance(part, int) and part < len(given):
        del given[part]


def _shared_tokens(settings: Settings) -> Iterator[Mistake]:
    owners: dict[bytes, str] = {}
    for name, tenant in settings.tenants.items():
        if (other := owners.setdefault(tenant.digest, name)) != name:
            yield Mistake(f"tenants.{name}.token", f"is that of {other} too; a token names one tenant", "***")


def _limit_names(settings: Settings) -> Iterator[Mistake]:
    """A limit counts under its name, so a name stands once at the top, and for a tenant in the same operation."""
    places: dict[str, str] = {}
    for operation, limit in _limits_of(settings.limits):
        if limit.name in places:
            yield Mistake(f"limits.{operation}", f"{limit.name} stands in {places[limit.name]} already", limit.name)
        places.setdefault(limit.name, operation)
    for name, tenant in settings.tenants.items():
        own: dict[str, str] = {}
        for operation, limit in _limits_of(tenant.limits):
            place = own.get(limit.name) or places.get(limit.name, operation)
            if limit.name in own or place != operation:
                path = f"tenants.{name}.limits.{operation}"
                yield Mistake(path, f"{limit.name} stands in {place} already", limit.name)
            own[limit.name] = operation


def _route_limits(settings: Settings) -> Iterator[Mistake]:
    """Routes may share a limit, which then counts for all of them: it has to be the same one."""
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
                what = "stands in another route with other values; routes that share a limit write it alike"
                yield Mistake(f"{path}.{at}.limits", what, limit.name)


def doubts(settings: Settings) -> Iterator[str]:
    """What is valid and yet hardly meant, in a sentence each."""
    sections = {f"tenants.{name}.": tenant for name, tenant in settings.tenants.items()}
    routes = [*settings.routes, *(route for tenant in sections.values() for route in tenant.routes)]
    if routes and not settings.server.trusted_proxies:
        yield "routes are configured, but server.trusted_proxies is empty: /auth/verify answers 400"
    for path, tenant in sections.items():
        if tenant.token is not None and len(tenant.token.get_secret_value()) < GUESSABLE_CHARS:
            yield f"{path}token has fewer than {GUESSABLE_CHARS} characters: short enough to be guessed"
    known = {*type(settings.limits).model_fields, *(route.capability for route in routes)}
    for path, tenant in sections.items():
        for capability in tenant.restricted_capabilities:
            if capability not in known:
                yield f"{path}restricted_capabilities: no operation and no route asks for {capability}"


def _limits_of(section: TenantLimits) -> Iterator[tuple[str, LimitSection]]:
    for operation in type(section).model_fields:
        for limit in getattr(section, operation):
            yield operation, limit


def _operators(settings: Settings, tenants: Collection[str]) -> Iterator[Mistake]:
    names: set[str] = set()
    for at, operator in enumerate(settings.admin.tokens):
        if operator.name in names:
            yield Mistake(f"admin.tokens.{at}.name", "stands twice; acts are told by this name", operator.name)
        names.add(operator.name)
        for unknown in sorted(set(operator.tenants) - {"*", *settings.tenants, *tenants}):
            yield Mistake(f"admin.tokens.{at}.tenants", "names a tenant that is not configured", unknown)


def _shipped_secrets(settings: Settings) -> Iterator[Mistake]:
    if is_loopback(settings.server.host):
        return
    digests = {tenant.digest for tenant in settings.tenants.values()} | {one.digest for one in settings.admin.tokens}
    keys = {key.secret.get_secret_value() for one in settings.tenants.values() for key in one.jwt.keys if key.secret}
    if keys & SHIPPED_SECRETS or digests & {digest(secret) for secret in SHIPPED_SECRETS}:
        what = "with the secrets of the shipped config.yaml only loopback is served; set secrets of your own first"
        yield Mistake("server.host", what, settings.server.host)


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is seen by this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _told(error: Any, secrets: set[str]) -> Mistake:
    """A mistake as pydantic found it, with its value where that is fit to be shown."""
    where = [part for part in error["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in where) or "the configuration"
    what = error["msg"]
    if error["type"] == "missing":
        return Mistake(path, "is required", "")
    if error["type"] == "extra_forbidden":
        what = "there is no such setting"
    value = error["input"]
    shown = repr(value)
    # A misspelt name may be that of a secret, and what stands in place of a section one of its values.
    perhaps_secret = where[:1] not in HOLD_NO_SECRETS and error["type"] in _NOT_A_VALUE
    if (
        perhaps_secret
        or any(part in SECRET_NAMES for part in where)
        or any(secret in shown for secret in secrets if secret)
    ):
        shown = "***"
    elif not isinstance(value, str | int | float | None):
        shown = ""  # a whole section
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[", "-----")):
        shown = ""  # JSON that is none, or a key where its file is asked for
    elif where and str(where[-1]).endswith("url"):
        scheme = re.match(r"[a-z0-9+]*(?=://)", value) if isinstance(value, str) else None
        shown = f"{scheme[0]}://***" if scheme else "***"  # a URL may hold a password, well-formed or not
    return Mistake(path, what, shown)
