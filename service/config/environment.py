"""Environment variables that override the file: `SERVICE__SERVER__PORT=8081`; a list or a map whole, as JSON."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.config.settings import TenantSection

ENV_PREFIX = "SERVICE__"
_ONLY_TEXT = frozenset({"token", "token_sha256", "token_file", "secret_file", "url", "url_file"})
"""Settings whose text is never read as JSON."""
_ANY_VALUE = "require"
"""A map whose values may have any type, so that each is read as JSON if it can be."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable, and the setting that it sets."""

    name: str
    path: tuple[str, ...]
    value: Any
    twice: str = ""
    """A name that appears twice in its JSON, so that the first would be lost."""


def variables(environment: Mapping[str, str], tenants: Collection[str]) -> list[Variable]:
    """Return what the environment sets, sections before their members.

    Args:
        environment: all variables.
        tenants: the names in the file. A name may hold `__`, which separates the parts of a variable, too.
    """
    found = [_read(name, text, tenants) for name, text in environment.items() if name.upper().startswith(ENV_PREFIX)]
    return sorted(found, key=lambda one: (len(one.path), one.path))


def _read(name: str, text: str, tenants: Collection[str]) -> Variable:
    section, separator, rest = name[len(ENV_PREFIX) :].lower().partition("__")
    path: tuple[str, ...] = (section,)
    if separator and section == "tenants":
        tenant = _tenant_of(rest, tenants, is_whole=_looks_like_json(text))
        path, rest = (section, tenant), rest[len(tenant) + 2 :]
        separator = rest
    if separator:
        path = (*path, *rest.split("__"))
    twice: list[str] = []
    return Variable(name, path, _value(path, text, twice), ", ".join(twice))


def _tenant_of(rest: str, tenants: Collection[str], *, is_whole: bool) -> str:
    """Return the tenant that `a__b__jwt__issuer` begins with: one of the file, or all up to the first known setting.

    Args:
        rest: a variable's name behind `TENANTS__`, in lower case.
        tenants: the names in the file.
        is_whole: the value may be a whole tenant.
    """
    if rest in tenants:
        return rest
    beginnings = [rest[: found.start()] for found in _SEPARATOR.finditer(rest)]
    for name in reversed(beginnings):
        if name in tenants and rest[len(name) + 2 :].partition("__")[0] in TenantSection.model_fields:
            return name
    found = _UP_TO_A_SETTING.match(rest)
    if found:
        return found[1]
    return rest if is_whole or not beginnings else beginnings[0]


_SEPARATOR = re.compile(r"(?<=.)(?=__)")


_UP_TO_A_SETTING = re.compile(rf"(.+?)__(?:{'|'.join(TenantSection.model_fields)})(?:__|$)")


def _looks_like_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


def _value(path: tuple[str, ...], text: str, twice: list[str]) -> Any:
    """Return the value of a variable. Text that is not JSON stays as it is, and becomes a mistake with its path."""
    is_any = _ANY_VALUE in path[:-1]
    if not is_any and (not _looks_like_json(text) or path[-1] in _ONLY_TEXT):
        return text

    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(sorted(name for name in made if names.count(name) > 1))
        return made

    try:
        return json.loads(text, object_pairs_hook=without_repetition)
    except (ValueError, RecursionError):
        return text


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A variable that names a member of something that has none: of a list, or of a single value."""

    variable: Variable
    parent: tuple[str, ...]
    is_list: bool
    """Whether what it names a member of is a list, which can be set as a whole."""


def put_over(values: dict[str, Any], given: Collection[Variable]) -> tuple[dict[str, Any], list[Misplaced]]:
    """Return `values` with what the environment sets, and the variables that set nothing; `values` stays unchanged."""
    made = dict(values)
    own: set[int] = {id(made)}
    misplaced: list[Misplaced] = []
    for variable in given:
        place: Any = made
        for at, part in enumerate(variable.path[:-1], 1):
            inside = place.get(part)
            if inside is None:
                inside = {}
            elif not isinstance(inside, dict):
                misplaced.append(Misplaced(variable, variable.path[:at], isinstance(inside, list)))
                break
            elif id(inside) not in own:
                inside = dict(inside)
            own.add(id(inside))
            place[part] = inside
            place = inside
        else:
            place[variable.path[-1]] = variable.value
    return made, misplaced


def set_twice(given: Collection[Variable]) -> Iterator[tuple[Variable, Variable]]:
    """Yield pairs of variables that set the same setting in different spellings."""
    first: dict[tuple[str, ...], Variable] = {}
    for variable in given:
        if (other := first.setdefault(variable.path, variable)) is not variable:
            yield other, variable
