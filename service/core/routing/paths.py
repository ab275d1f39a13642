"""Reading of the path of a request target, also of the forms that servers read differently.

A proxy asks about a path, and another server reads it afterwards. Servers differ in what they decode, resolve, merge
and cut off. A path that means one thing here and another there could be admitted by a rule for something else. So a
target in which servers resolve something is refused; no client of an API sends one:

- dot segments, of any number of dots, encoded or not, also with parameters or white space beside the dots (`/..;x/`);
- a leading `//` (servers take the next name for a host), also where a reader makes one by cutting off `;…` or decoding;
- backslashes, control characters, spaces and fragments, encoded backslashes and control characters;
- an encoding within an encoding, a `%` that encodes nothing, and what is not UTF-8.

Other forms that servers read differently, and that clients do send, have several readings. The rules of all readings
apply:

- an empty segment within the path is a name, or nothing;
- an encoded slash is part of a name, or separates two;
- what follows a `;` in a segment is part of the name, or is cut off;
- dots and spaces at the end of a name are part of it, or are cut off (Caddy, file systems of Windows);
- an encoded `?` or `#` is part of a name, or ends the path.

Each such place is read on its own, so a server that decodes or strips only some of them is covered.

Source: RFC 3986, sections 3.3, 5.2.4 and 6.2.2; RFC 9112, section 3.2; the WHATWG URL standard, section 4.4.
"""

import re
from collections.abc import Callable, Collection
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from service.core.errors import UnreadableRequest

State = TypeVar("State")
Step = Callable[[State, str], State]

MAX_CHARS = 8192
"""The most characters of a target that is not plain; a longer one is refused."""
MAX_AMBIGUITIES = 64
"""The most places with more than one reading, and the most states that all readings lead to."""
JOINED = "/"
"""Replaces any name that contains an encoded slash: no rule can name one."""

_NAME = r"[A-Za-z0-9_~!$&'()*+,=:@-]"
_PLAIN = re.compile(rf"(?:/{_NAME}+(?:\.+{_NAME}+)*)*/?")
"""Paths that every server reads alike, which are nearly all: dots within names, nothing encoded, no parameters."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+", re.IGNORECASE)
_UNPRINTABLE = re.compile(rb"[\x00-\x20\x7f\\#]")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ENCODED_AGAIN = re.compile(r"%[uU]?[0-9A-Fa-f]{2}")
_CLEAR = re.compile(r"[^/;?#]*[^/;?# .]")
_UNCLEAR = re.compile(r"[/;?#]")
_CUT = re.compile(r"[;?#]")


def walk(target: str, start: State, step: Step[State]) -> Collection[State]:
    """Follow the names of the path of `target` from `start`, in every reading of it.

    Args:
        target: as the client sent it: `/path?query`, or in absolute form. Bytes that are not UTF-8 as surrogates.
        start: the state in which every reading begins; hashable.
        step: returns the state that a name leads to.

    Returns:
        The states in which the readings end. Most targets have one reading.

    Raises:
        UnreadableRequest: servers do not agree on what the target means.
    """
    path = target.partition("?")[0]
    if path and _PLAIN.fullmatch(path):
        state = start
        for name in path.split("/"):
            if name:
                state = step(state, name)
        return (state,)
    return _in_all_readings(_segments(path), start, step)


def _segments(path: str) -> list[str]:
    """Return the decoded text between the slashes, without a trailing slash. A slash in it was encoded.

    Raises:
        UnreadableRequest: as `walk` does.
    """
    if len(path) > MAX_CHARS:
        raise UnreadableRequest("the path is too long")
    if origin := _ORIGIN.match(path):
        path = path[origin.end() :] or "/"
    if not path.startswith("/"):
        raise UnreadableRequest("the target is no path")
    raw = path.encode("utf-8", "surrogateescape")
    if _UNPRINTABLE.search(raw):
        raise UnreadableRequest("the path holds a control character, a space, a backslash or a fragment")
    if _BROKEN_ESCAPE.search(raw):
        raise UnreadableRequest("the path holds a % that encodes nothing")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise UnreadableRequest("the path is not UTF-8") from None
    decoded = "/" + "/".join(segments)
    if _CONTROLS.search(decoded):
        raise UnreadableRequest("the path encodes a control character or a backslash")
    if _ENCODED_AGAIN.search(decoded):
        raise UnreadableRequest("the path is encoded twice")
    parts = decoded.split("/")[1:]
    if any("." in part and _is_dots(part) for part in parts):
        raise UnreadableRequest("the path has a dot segment")
    if len(parts) > 1 and "" in _names(parts[0]):
        raise UnreadableRequest("the path begins with an empty segment")
    if segments[-1] == "":
        segments.pop()
    if sum(map(_ambiguities, segments)) > MAX_AMBIGUITIES:
        raise UnreadableRequest("the path has too many readings")
    return segments


def _ambiguities(segment: str) -> int:
    return 0 if _CLEAR.fullmatch(segment) else len(_UNCLEAR.findall(segment)) or 1


def _is_dots(part: str) -> bool:
    name = _CUT.split(part, maxsplit=1)[0]
    return "." in name and not name.replace(".", "").strip()  # of Unicode's white space, too


def _names(part: str) -> set[str]:
    """Return the readings of a name: whole, without its parameters, without dots and spaces at its end."""
    if _CLEAR.fullmatch(part):
        return {part}
    bare = part.partition(";")[0]
    return {part, bare, part.rstrip(" ."), bare.rstrip(" .")}


def _in_all_readings(segments: list[str], start: State, step: Step[State]) -> set[State]:
    """Return the states in which all combinations of readings end."""
    states, ends = {start}, set[State]()
    for segment in segments:
        if _CLEAR.fullmatch(segment):
            states = {step(state, segment) for state in states}
            continue
        begun = set[State]()  # where a name with an encoded slash may have begun
        cut_off = set[State]()  # readings that ignore the rest of the segment, as parameters
        for part in segment.split("/"):
            joined = {step(state, JOINED) for state in begun}
            for mark in "?#":
                if mark in part:
                    ends |= joined | _past(_names(part.partition(mark)[0]), states, step)
            if ";" in part:
                cut_off |= joined | _past(_names(part.partition(";")[0]), states, step)
            begun |= states
            states = joined | _past(_names(part), states, step)
        states |= cut_off
        if len(states) + len(ends) > MAX_AMBIGUITIES:
            raise UnreadableRequest("the path has too many readings")
    return states | ends


def _past(names: set[str], states: set[State], step: Step[State]) -> set[State]:
    """Return the states that `names` lead to from `states`; an empty name may be no name at all."""
    past = {step(state, name) for state in states for name in names}
    return past | states if "" in names else past
