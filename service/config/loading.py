"""Loading of the configuration: the file, the environment over it, and a report of all mistakes together.

A variable replaces everything at its path. A name that appears twice in the file, a variable that names nothing
and JSON that is none are mistakes like any other. No message holds a secret.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from service.config import environment
from service.config.cross_checks import Mistake, cross_checks
from service.config.environment import Variable
from service.config.setting_types import ONE_BLOCK, SEVERAL_BLOCKS, UNMATCHABLE
from service.config.settings import SECRET_NAMES, Settings, secrets_of
from service.config.yaml_file import NotYaml, read_yaml
from service.core.text.validation_messages import plain_message

SECRET_FILES = ("token_file", "secret_file", "url_file")
HOLD_NO_SECRETS = ("server", "sessions", "limits", "routes")
_NOT_A_VALUE = (
    *("extra_forbidden", "model_type", "model_attributes_type", "list_type", "tuple_type", "dict_type"),
    UNMATCHABLE,
)
_Place = Sequence[int | str]


EXIT_CONFIGURATION = 2
"""The exit code of a command that cannot use its configuration."""


class ConfigurationError(Exception):
    """The configuration cannot be used. Has all mistakes that were found."""

    def __init__(self, source: str, mistakes: Iterable[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        return f"{self.source}: {len(self.mistakes)} mistake{'s' * (len(self.mistakes) != 1)}\n{lines}"


_ADDED = frozenset({"[key]", ONE_BLOCK, SEVERAL_BLOCKS})
"""Parts of the path of a mistake that are not in the file."""


def load(path: Path) -> Settings:
    """Read the configuration.

    Raises:
        ConfigurationError: it cannot be used; holds all mistakes.
    """
    try:
        values, surprises = read_yaml(_text_of(path), _may_show)
    except NotYaml as error:
        raise ConfigurationError(str(path), [Mistake("file", str(error), "")]) from None
    tenants = values.get("tenants")
    variables = environment.variables(os.environ, tenants if isinstance(tenants, dict) else ())
    in_sections = [one for one in variables if one.path[0] in Settings.model_fields]
    given, misplaced = environment.put_over(values, in_sections)
    # What the environment replaces cannot be wrong in the file.
    replaced = [variable.path for variable in variables]
    surprises = [one for one in surprises if not any(one.path[: len(path)] == path for path in replaced)]
    mistakes = [Mistake(_spelt(one.path) or "file", one.what, "") for one in surprises]
    mistakes += _of_variables(variables) + [_of_misplaced(one) for one in misplaced]
    settings, wrong = _validated(given)
    secrets = set()
    if mistakes or wrong or settings is None:
        try:
            secrets = secrets_of(given)
        except RecursionError:
            raise ConfigurationError(str(path), [Mistake("file", "is nested too deeply", "")]) from None
        found = _merged(_mistake_of(one, given, secrets) for one in wrong)
        known = {one.path for one in mistakes}
        mistakes += [one for one in found if one.path not in known]
    if settings is None:
        mistakes += cross_checks_of_the_rest(given, [one["loc"] for one in wrong])
    else:
        mistakes += cross_checks(settings)
    if mistakes or settings is None:
        secrets = secrets or secrets_of(given)
        raise ConfigurationError(str(path), [_shown(one, secrets, variables) for one in mistakes])
    return settings


def fingerprint(path: Path) -> bytes:
    """Return a digest of the file's content; empty: it cannot be read."""
    try:
        return sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise NotYaml("is not YAML: not UTF-8 text") from None
    except FileNotFoundError:
        where = "" if path == Path("config.yaml") else f" --config {quote(str(path))}"
        what = f"does not exist; `rollcall config init{where}` writes one"
        raise ConfigurationError(str(path), [Mistake("file", what, str(path))]) from None
    except OSError as error:
        what = error.strerror or "cannot be read"
        raise ConfigurationError(str(path), [Mistake("file", what, str(path))]) from None


def _validated(given: Mapping[str, Any]) -> tuple[Settings | None, list[Any]]:
    """Return the settings, or the mistakes that the types find."""
    try:
        return Settings.model_validate(given), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _spelt(path: _Place) -> str:
    return ".".join(map(str, path))


def _may_show(path: _Place) -> bool:
    """Return whether a message may quote the value at a path: it is that of a setting, and not of a secret."""
    names = [part for part in path if isinstance(part, str)]
    return bool(names) and (names[0] in HOLD_NO_SECRETS or _is_harmless(names[-1]))


def _is_harmless(name: str) -> bool:
    return name in _names_of_settings() and name not in SECRET_NAMES and not name.endswith("url")


def _shown(mistake: Mistake, secrets: set[str], variables: Sequence[Variable]) -> Mistake:
    """Return the mistake with the variable that made it, and without secrets in the wrong place."""
    value = "***" if _holds_any(mistake.value, secrets) else mistake.value
    return replace(mistake, variable=mistake.variable or _variable_of(mistake.path, variables), value=value)


def _holds_any(shown: str, secrets: set[str]) -> bool:
    return any(secret in shown for secret in secrets if secret)


def _variable_of(path: str, variables: Sequence[Variable]) -> str:
    """Return the name of the variable that sets the value at `path`, or a section around it."""
    parts = tuple(path.lower().split("."))
    return next((one.name.upper() for one in reversed(variables) if one.path == parts[: len(one.path)]), "")


def _of_variables(variables: Sequence[Variable]) -> list[Mistake]:
    """Return the mistakes in variables themselves. The types check names under a known section."""
    known = Settings.model_fields
    sections = ", ".join(known)
    mistakes = [
        Mistake(one.name.upper(), f"there is no such section; the sections are {sections}", "")
        for one in variables
        if one.path[0] not in known
    ]
    for one, other in environment.set_twice(variables):
        mistakes.append(Mistake(_spelt(one.path), f"is set twice, by {one.name} and {other.name}", ""))
    mistakes += [
        Mistake(_spelt(one.path), f"its JSON has a name twice: {one.twice}", "") for one in variables if one.twice
    ]
    return mistakes


def _of_misplaced(one: environment.Misplaced) -> Mistake:
    """Return the mistake of a variable for a member of a list or of a single value: it would set nothing."""
    parent = _spelt(one.parent)
    whole = f"{environment.ENV_PREFIX}{'__'.join(one.parent).upper()}"
    what = f"{parent} is a list: set it as a whole, as JSON in {whole}" if one.is_list else f"{parent} has no members"
    return Mistake(_spelt(one.variable.path), what, "", one.variable.name.upper())


def cross_checks_of_the_rest(given: dict[str, Any], wrong: Sequence[tuple[int | str, ...]]) -> list[Mistake]:
    """Run the cross-checks on what is left without the parts that are wrong by themselves.

    So a report has all mistakes of a file at once. What is not valid without the part that
    is wrong goes with it: the key, then the tenant.
    """
    named = given.get("tenants")
    tenants = [str(name) for name in named] if isinstance(named, dict) else []
    for _ in range(8):
        for place in sorted(wrong, key=str, reverse=True):  # the later elements of a list first
            _take_out(given, place)
        settings, errors = _validated(given)
        if settings is not None:
            return cross_checks(settings, tenants)
        wrong = [one["loc"][:-1] if one["type"] == "missing" else one["loc"] for one in errors]
    return []


def _take_out(given: Any, place: tuple[int | str, ...]) -> None:
    """Remove the value at `place`, or the innermost section around it that exists."""
    parts = [part for part in place if part not in _ADDED]
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


@cache
def _names_of_settings() -> frozenset[str]:
    schema = Settings.model_json_schema()
    return frozenset(name for one in (schema, *schema["$defs"].values()) for name in one.get("properties", ()))


def _path_of(error: Any, given: Any) -> list[int | str]:
    """Return the path of a mistake as in the file: pydantic adds which of several types it tried."""
    path: list[int | str] = []
    at, place = given, [part for part in error["loc"] if part not in _ADDED]
    for number, part in enumerate(place):
        inside = isinstance(at, dict) and part in at
        if inside or (isinstance(at, list) and isinstance(part, int) and part < len(at)):
            at = at[part]
            path.append(part)
        elif isinstance(at, dict) and number == len(place) - 1 and error["type"] == "missing":
            path.append(part)
    return path


def _merged(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Join the messages about a value that may have several types: `must be text, or must be a list`."""
    made: dict[str, Mistake] = {}
    for one in mistakes:
        other = made.get(one.path)
        if other is None:
            made[one.path] = one
        elif one.what not in other.what:
            made[one.path] = replace(other, what=f"{other.what}, or {one.what}")
    return list(made.values())


def _mistake_of(error: Any, given: Any, secrets: set[str]) -> Mistake:
    """Return a mistake that pydantic found, with its value if that may be shown."""
    where = _path_of(error, given)
    path = _spelt(where) or "the configuration"
    if error["type"] == "missing":
        return Mistake(path, "is required", "")
    what = plain_message(error)
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(where[-1]), sorted(_names_of_settings()), 1)
        what = "there is no such setting" + (f"; perhaps {near[0]} is meant" if near else "")
    value = error["input"]
    shown = repr(value)
    # A misspelt name may be that of a secret, and a value in place of a section one of its secrets.
    perhaps_secret = where[:1] not in [[name] for name in HOLD_NO_SECRETS] and error["type"] in _NOT_A_VALUE
    if perhaps_secret or any(part in SECRET_NAMES for part in where) or _holds_any(shown, secrets):
        shown = "***"
    elif value is None or isinstance(value, bool):
        shown = {None: "null", True: "true", False: "false"}[value]
    elif not isinstance(value, str | int | float):
        shown = ""  # a whole section
    elif where and where[-1] in SECRET_FILES and not _looks_like_a_path(value):
        shown = "***"
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[", "-----")):
        shown = ""  # text that is not JSON, or a key in place of its file
    elif where and str(where[-1]).endswith("url"):
        scheme = re.match(r"[a-z0-9+]*(?=://)", value) if isinstance(value, str) else None
        shown = f"{scheme[0]}://***" if scheme else "***"  # a URL may hold a password, well-formed or not
    return Mistake(path, what, shown)


def _looks_like_a_path(value: Any) -> bool:
    """Return whether `value` names a file in a folder that exists; otherwise it may be the secret itself."""
    try:
        return isinstance(value, str) and "/" in value and Path(value).parent.is_dir()
    except (OSError, ValueError):
        return False
