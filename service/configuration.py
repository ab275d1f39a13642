"""Loading `settings.Settings`: the file, the environment over it, and every mistake told at once.

pydantic-settings reads both layers. What is added here: a variable replaces what stands at its path whole;
a key that stands twice in the file, a variable that names nothing and JSON that is none are mistakes like
any other; and a message never holds a secret.
"""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    YamlConfigSettingsSource,
)

from service.settings import ENV_PREFIX, SECRET_NAMES, Settings, secrets_of

SHIPPED_SECRETS = frozenset(
    {
        "demo-tenant-token",
        "demo-operator-token",
        "demo-viewer-token",
        "demo-signing-secret-for-trying-out-only",
    }
)
"""What the shipped config.yaml holds. Everybody knows these, so they are good for loopback alone."""


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

    mistakes = [*_unknown_variables(), *_shipped_secrets_in_public(raw)]
    try:
        settings = Layers()
    except ValidationError as error:
        secrets = secrets_of(raw)
        mistakes += [_told(one, secrets) for one in error.errors(include_url=False)]
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
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, _UniqueKeyLoader)  # noqa: S506  # it is a SafeLoader
    except OSError as error:
        raise ConfigurationError(str(path), [Mistake("file", error.strerror or "cannot be read", str(path))]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), [Mistake("file", f"is not YAML: {_where(error)}", "")]) from None
    if not isinstance(values, dict | None):
        kind = type(values).__name__
        raise ConfigurationError(str(path), [Mistake("file", "must hold a map of settings", f"a {kind}")])
    return values or {}


def _where(error: Exception) -> str:
    """What is wrong and where, without quoting the file: it holds secrets."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'not UTF-8 text'}{place}"


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


def _shipped_secrets_in_public(raw: Mapping[str, Any]) -> list[Mistake]:
    server = raw.get("server")
    host = os.environ.get(f"{ENV_PREFIX}SERVER__HOST") or (server.get("host") if isinstance(server, dict) else None)
    if host is None or is_loopback(str(host)):
        return []
    values = secrets_of(raw) | {value for name, value in os.environ.items() if name.upper().startswith(ENV_PREFIX)}
    if not any(secret in value for secret in SHIPPED_SECRETS for value in values):
        return []
    what = "with the secrets of the shipped config.yaml only loopback is served; set secrets of your own first"
    return [Mistake("server.host", what, str(host))]


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
    if any(part in SECRET_NAMES for part in where) or any(secret in shown for secret in secrets if secret):
        shown = "***"
    elif not isinstance(value, str | int | float | None) or str(value).lstrip().startswith(("{", "[")):
        shown = ""  # a whole section says nothing that the path does not, and may hold secrets
    elif isinstance(value, str) and "@" in value and "://" in value:
        shown = repr(value.replace(urlsplit(value).netloc.rpartition("@")[0], "***"))
    return Mistake(path, what, shown)
