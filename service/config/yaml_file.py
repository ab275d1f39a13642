"""Reading of config.yaml. A value that YAML reads as something other than it looks like is a mistake.

The file is read from libyaml's events: PyYAML's own constructors take ten times as long, and know neither the path of
a value nor that `030` is meant to be 30.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
MAX_DEPTH = 40
_STANDARD = "tag:yaml.org,2002:"

_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **{f"{sign}.{name}": float(f"{sign}inf") for sign in ("", "+", "-") for name in ("inf", "Inf", "INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMERIC = frozenset("0123456789+-.")
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FRACTION = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"([-+]?)0[0-9_]*[0-9]")
_OTHER_BASE = re.compile(r"([-+]?)0(?:[xX](?P<hex>[0-9a-fA-F_]+)|[oO](?P<oct>[0-7_]+)|[bB](?P<bin>[01_]+))")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d.*)?")


class NotYaml(Exception):
    """The file is not YAML, or is not a map of settings. Says where, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """A value or name that YAML reads as something other than it looks like, or that appears twice."""

    path: Path
    what: str


def read_yaml(text: str, may_show: Callable[[Path], bool]) -> tuple[dict[str, Any], list[Surprise]]:
    """Return the content of the file, and what in it is probably not intended.

    Args:
        text: the content of the file.
        may_show: whether a message may quote the value at a path. It may not quote secrets.

    Raises:
        NotYaml: it cannot be read at all.
    """
    reader = _Reader(text, may_show)
    try:
        values = reader.document()
    except yaml.YAMLError as error:
        raise NotYaml(f"is not YAML: {_where(error, text)}") from None
    except RecursionError:
        raise NotYaml("is nested too deeply") from None
    if not isinstance(values, dict | None):
        raise NotYaml("must be a map of settings")
    return values or {}, reader.surprises


_SIGN = re.compile(r"'(?:[^\w\s]|<[a-z ]+>)'")
"""What a message of the parser may quote."""


def _where(error: Exception, text: str) -> str:
    """Return what is wrong and where, without quoting the file, which has secrets, but for single signs."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "it has a character that YAML does not allow"
    indentation = "".join(text.split("\n")[mark.line : mark.line + 1])[: mark.column + 1] if mark else ""
    if "\t" in indentation and not indentation.strip():
        problem = "a tab; indent with spaces"
    return (
        re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: quoted[0] if _SIGN.fullmatch(quoted[0]) else "…", problem) + place
    )


class _Reader:
    def __init__(self, text: str, may_show: Callable[[Path], bool]) -> None:
        self._events: Iterator[Any] = yaml.parse(text, _LOADER)
        self._may_show = may_show
        self._anchors: dict[str, Any] = {}
        self._path: list[str | int] = []
        self._plain: dict[str, Any] = {}
        self.surprises: list[Surprise] = []

    def document(self) -> Any:
        """Return the one document of the file; None: it is empty."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._node(next(self._events), ())
        next(self._events)
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise NotYaml("has more than one document (a line of --- begins another)")
        return value

    def _note(self, name: Path, what: str) -> None:
        self.surprises.append(Surprise((*self._path, *name), what))

    def _node(self, event: Any, name: Path) -> Any:
        """Return the value that begins with `event`; `name` is its place in what is around it."""
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event, name)
        anchor = event.anchor
        if kind is yaml.ScalarEvent:
            value: Any = self._scalar(event, name)
        else:
            if anchor is not None:
                self._anchors[anchor] = _OPEN
            self._path += name
            if len(self._path) > MAX_DEPTH:
                raise NotYaml("is nested too deeply")
            value = self._map(event) if kind is yaml.MappingStartEvent else self._list()
            if name:
                del self._path[-len(name) :]
            if event.tag not in (None, "!", f"{_STANDARD}map", f"{_STANDARD}seq"):
                self._note(name, "has a tag that is not supported: remove it")
        if anchor is not None:
            self._anchors[anchor] = value
        return value

    def _alias(self, event: Any, name: Path) -> Any:
        if event.anchor not in self._anchors:
            raise NotYaml(f"is not YAML: an alias without its anchor in line {event.start_mark.line + 1}")
        value = self._anchors[event.anchor]
        if value is _OPEN:
            self._note(name, "contains itself")
            return None
        return value

    def _list(self) -> list[Any]:
        made: list[Any] = []
        while type(event := next(self._events)) is not yaml.SequenceEndEvent:
            made.append(self._node(event, (len(made),)))
        return made

    def _map(self, start: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: list[Any] = []
        while type(event := next(self._events)) is not yaml.MappingEndEvent:
            line = event.start_mark.line + 1
            if type(event) is yaml.ScalarEvent and event.implicit[0] and event.value == "<<":
                merged.append(self._node(next(self._events), ()))
                continue
            name = self._name(event)
            value = self._node(next(self._events), (name,))
            if name in made:
                self._note((name,), f"appears twice, in lines {lines[name]} and {line}")
                continue
            made[name], lines[name] = value, line
        return self._with_merged(made, merged, start.start_mark.line + 1) if merged else made

    def _with_merged(self, made: dict[str, Any], merged: Sequence[Any], line: int) -> dict[str, Any]:
        for one in merged:
            for source in one if isinstance(one, list) else [one]:
                if not isinstance(source, dict):
                    raise NotYaml(f"is not YAML: << merges something other than a map in line {line}")
                made = {**source, **made}
        return made

    def _name(self, event: Any) -> str:
        """Return the name of a setting."""
        if type(event) is yaml.AliasEvent:
            value = self._alias(event, ())
        elif type(event) is yaml.ScalarEvent:
            text: str = event.value
            if not event.implicit[0] or self._resolved(text) == text:
                return text
            self._note((text,), f'YAML reads this name as {_spelt(self._resolved(text))}: write "{text}"')
            return text
        else:
            value = self._node(event, ())
        if isinstance(value, str):
            return value
        self._note((), f"a name in line {event.start_mark.line + 1} is not text")
        return f"line {event.start_mark.line + 1}"

    def _resolved(self, text: str) -> Any:
        """Return the value of a scalar without quotes; a `_Meant` if it is not what it looks like."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text[0] not in _NUMERIC:
            return text
        known = self._plain.get(text)
        if known is None:
            known = self._plain[text] = _number(text)
        return known

    def _scalar(self, event: Any, name: Path) -> Any:
        text, tag = event.value, event.tag
        if tag is None or tag == "!":
            if not event.implicit[0] or tag == "!":
                return text
        elif tag == f"{_STANDARD}str":
            return text
        elif tag not in _PLAIN_TAGS:
            self._note(name, "has a tag that is not supported: remove it, and put text in quotes")
            return text
        value = self._resolved(text)
        if type(value) is _Meant:
            shown = self._may_show((*self._path, *name))
            self._note(name, value.what.format(*value.shown) if shown else f"{value.kind}: put text in quotes")
            return value.value
        if tag is not None and tag != "!" and type(value) not in _PLAIN_TAGS[tag]:
            self._note(name, "is not what its tag says")
        return value


_OPEN = object()
"""Marks an anchor's value while that is being read."""
_PLAIN_TAGS: dict[str, tuple[type, ...]] = {
    f"{_STANDARD}int": (int,),
    f"{_STANDARD}float": (int, float),
    f"{_STANDARD}bool": (bool,),
    f"{_STANDARD}null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class _Meant:
    """A value that looks like something else."""

    value: Any
    """The value that was probably intended, to continue with."""
    what: str
    shown: tuple[Any, ...]
    kind: str
    """The same without quoting it."""


def _number(text: str) -> Any:
    if _WHOLE.fullmatch(text):
        return int(text.replace("_", "")) if len(text) < 40 else text
    if _FRACTION.fullmatch(text) and not _LEADING_ZERO.match(text.partition(".")[0]):
        return float(text.replace("_", ""))
    if found := _LEADING_ZERO.fullmatch(text):
        digits = text.replace("_", "").lstrip("+-").lstrip("0") or "0"
        value = f"{found[1]}{digits}".lstrip("+")
        what = '{0} begins with a zero, and YAML may read that as an octal number: write {1}, or "{0}" for text'
        return _Meant(int(value) if len(value) < 40 else text, what, (text, value), "begins with a zero")
    if (found := _OTHER_BASE.fullmatch(text)) and re.search("[0-9a-fA-F]", text[2:].lstrip("xXoObB")):
        base = {"hex": 16, "oct": 8, "bin": 2}[found.lastgroup or ""]
        number = int(f"{found[1]}{found[found.lastgroup or '']}".replace("_", ""), base)
        what = '{0} is read as the number {1}: write {1}, or "{0}" for text'
        return _Meant(number, what, (text, _short(number)), "is read as a number")
    if _BASE_60.fullmatch(text):
        number = _base_60(text.replace("_", ""))
        what = '{0} is read as the number {1} (base 60): write {1}, or "{0}" for text'
        return _Meant(number, what, (text, _short(number)), "is read as a number of base 60")
    if _DATE.fullmatch(text):
        return _Meant(text, '{0} is read as a date: write "{0}"', (text,), "is read as a date")
    return text


def _base_60(text: str) -> Any:
    value: Any = 0
    for digits in text.lstrip("+-").split(":"):
        value = value * 60 + (float(digits) if "." in digits else int(digits))
    return -value if text.startswith("-") else value


def _short(number: Any) -> str:
    return str(number) if abs(number) < 10**40 else "…"


def _spelt(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or yes" if value else "false or no"
    return "a date" if isinstance(value, _Meant) and isinstance(value.value, str) else "a number"
