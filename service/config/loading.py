"""Loading `settings.Settings`: the file, the environment over it, and every mistake told at once.

pydantic-settings reads both layers. What is added here: a variable replaces what stands at its path whole;
a key that stands twice in the file, a variable that names nothing and JSON that is none are mistakes like
any other; and a message never holds a secret.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
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

from service.config.settings import ENV_PREFIX, SECRET_NAMES, Settings, secrets_of
from service.config.validation import Mistake, cross_checks
from service.core.text.validation_messages import plain_message

SECRET_FILES = ("token_file", "secret_file", "url_file")
HOLD_NO_SECRETS = (["server"], ["sessions"], ["limits"], ["routes"])
_NOT_A_VALUE = ("extra_forbidden", "model_type", "model_attributes_type", "list_type", "tuple_type", "dict_type")


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
    secrets: set[str] = set()
    try:
        secrets = secrets_of(raw) | secrets_of(_Environment(Layers)())
        settings = Layers()
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        mistakes += [_mistake_of(one, secrets) for one in wrong]
        given = _merged(_File(Layers, path)(), _Environment(Layers)())
        mistakes += cross_checks_of_the_rest(given, [one["loc"] for one in wrong])
    except (RecursionError, TypeError, AttributeError) as error:
        mistakes.append(Mistake("file", f"is built in a way that cannot be read ({type(error).__name__})", ""))
    else:
        mistakes += cross_checks(settings)
    if mistakes:
        raise ConfigurationError(str(path), [_shown(one, secrets) for one in mistakes])
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
    except FileNotFoundError:
        where = "" if path == Path("config.yaml") else f" --config {quote(str(path))}"
        what = f"does not exist; `rollcall config init{where}` writes one"
        raise ConfigurationError(str(path), [Mistake("file", what, str(path))]) from None
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


def _shown(mistake: Mistake, secrets: set[str]) -> Mistake:
    """With the variable that made it, and without a secret that stands in the wrong place."""
    value = "***" if _holds_any(mistake.value, secrets) else mistake.value
    return replace(mistake, variable=_variable_of(mistake.path), value=value)


def _holds_any(shown: str, secrets: set[str]) -> bool:
    return any(secret in shown for secret in secrets if secret)


def _variable_of(path: str) -> str:
    """The name of the variable that sets what stands at `path`, or what is around it."""
    parts = tuple(path.lower().split("."))
    prefixes = sorted((one for one in _variables() if one == parts[: len(one)]), key=len)
    return ENV_PREFIX + "__".join(prefixes[-1]).upper() if prefixes else ""


def _unknown_variables() -> list[Mistake]:
    """Those under a known section are found by the types; these name no section at all."""
    known = Settings.model_fields
    return [
        Mistake(ENV_PREFIX + "__".join(path).upper(), f"there is no such section; known are {', '.join(known)}", "")
        for path in _variables()
        if path[0] not in known
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
    parts = [part for part in place if part != "[key]"]
    for part in parts[:-1]:
        inside = given.get(part) if isinstance(given, dict) else None
        if isinstance(given, list) and isinstance(part, int) and part < len(given):
            inside = given[part]
        if not isinstance(inside, dict | list):
            break
        given = inside
    else:
        part = parts[-1] if parts else ""
    if isinstance(given, dict):
        given.pop(part, None)
    elif isinstance(given, list) and isinstance(part, int) and part < len(given):
        del given[part]


def _names_of_settings() -> set[str]:
    schema = Settings.model_json_schema()
    return {name for one in (schema, *schema["$defs"].values()) for name in one.get("properties", ())}


def _mistake_of(error: Any, secrets: set[str]) -> Mistake:
    """A mistake as pydantic found it, with its value where that is fit to be shown."""
    where = [part for part in error["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in where) or "the configuration"
    what = plain_message(error["msg"])
    if error["type"] == "missing":
        return Mistake(path, "is required", "")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(where[-1]), _names_of_settings(), 1)
        what = "there is no such setting" + (f"; perhaps {near[0]} is meant" if near else "")
    value = error["input"]
    shown = repr(value)
    # A misspelt name may be that of a secret, and what stands in place of a section one of its values.
    perhaps_secret = where[:1] not in HOLD_NO_SECRETS and error["type"] in _NOT_A_VALUE
    if perhaps_secret or any(part in SECRET_NAMES for part in where) or _holds_any(shown, secrets):
        shown = "***"
    elif not isinstance(value, str | int | float | None):
        shown = ""  # a whole section
    elif where and where[-1] in SECRET_FILES and not _looks_like_a_path(value):
        shown = "***"
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[", "-----")):
        shown = ""  # JSON that is none, or a key where its file is asked for
    elif where and str(where[-1]).endswith("url"):
        scheme = re.match(r"[a-z0-9+]*(?=://)", value) if isinstance(value, str) else None
        shown = f"{scheme[0]}://***" if scheme else "***"  # a URL may hold a password, well-formed or not
    return Mistake(path, what, shown)


def _looks_like_a_path(value: Any) -> bool:
    """Return whether `value` names a file in a folder that is there; it may be the secret itself instead."""
    try:
        return isinstance(value, str) and "/" in value and Path(value).parent.is_dir()
    except (OSError, ValueError):
        return False
