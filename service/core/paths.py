"""Reading the path of a request target: the one form that all servers read alike, and the few that they do not.

A proxy asks about a path that another server reads afterwards. Servers differ in what they decode, resolve, merge and
cut off, and a path that means one thing here and another there passes by a rule that is meant for something else. So a
target in which servers resolve something is refused, as no client of an API sends it:

- dot segments, encoded or not, also with parameters or white space beside the dots (`/..;x/`);
- a leading `//` (servers take the next name for a host), also where a reader makes one by stripping `;…` or decoding;
- backslashes, control characters, spaces and fragments, encoded backslashes and control characters;
- an encoding within an encoding, a `%` that encodes nothing, and what is not UTF-8.

What real APIs do send and servers read differently has several readings, and the rules of all of them hold:

- an empty segment within the path is a name, or nothing;
- an encoded slash is part of a name, or separates two;
- what follows a `;` in a segment is part of the name, or is cut off;
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
"""Of a target that is not plain; a longer one is refused."""
MAX_AMBIGUITIES = 64
"""Places that have more than one reading, and states that all readings together may lead to."""
JOINED = "/"
"""Stands for any name that holds an encoded slash: no rule can name one."""

_NAME = r"[A-Za-z0-9_~!$&'()*+,=:@-]"
_PLAIN = re.compile(rf"(?:/{_NAME}(?:{_NAME}|\.)*)*/?")
"""What every server reads alike, which is nearly every path: no dots in front, nothing encoded, no parameters."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+", re.IGNORECASE)
_UNPRINTABLE = re.compile(rb"[\x00-\x20\x7f\\#]")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ENCODED_AGAIN = re.compile(r"%[uU]?[0-9A-Fa-f]{2}")
_DOT_SEGMENT = re.compile(r"/\s*\.\.?\s*(?:[/;?#]|$)")
_UNCLEAR = re.compile(r"[/;?#]")


def walk(target: str, start: State, step: Step[State]) -> Collection[State]:
    """Follow the names of the path of `target` from `start`, in every reading of it.

    Args:
        target: as the client sent it: `/path?query`, or in absolute form. Bytes that are not UTF-8 as surrogates.
        start: where every reading begins; hashable.
        step: where a name leads to.

    Returns:
        Where the readings end. For most targets there is one reading.

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
    """The decoded text between the slashes, without a trailing slash. A slash in it was encoded.

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
    if _DOT_SEGMENT.search(decoded):
        raise UnreadableRequest("the path has a dot segment")
    if decoded.startswith("//") or (decoded.startswith("/;") and "/" in decoded[1:]):
        raise UnreadableRequest("the path begins with an empty segment")
    if segments[-1] == "":
        segments.pop()
    if sum(map(_ambiguities, segments)) > MAX_AMBIGUITIES:
        raise UnreadableRequest("the path has too many readings")
    return segments


def _ambiguities(segment: str) -> int:
    return len(_UNCLEAR.findall(segment)) if segment else 1


def _in_all_readings(segments: list[str], start: State, step: Step[State]) -> set[State]:
    """Where all combinations of readings end."""
    states, ends = {start}, set[State]()
    for segment in segments:
        if segment and not _UNCLEAR.search(segment):
            states = {step(state, segment) for state in states}
            continue
        begun = set[State]()  # where a name may have begun that goes on over an encoded slash
        stripped = set[State]()  # where readings are that cut off the rest of the segment
        for part in segment.split("/"):
            bare = part.partition(";")[0]
            joined = {step(state, JOINED) for state in begun}
            for mark in "?#":
                if mark in part:
                    before = part.partition(mark)[0]
                    ends |= joined | _past(before, states, step) | _past(before.partition(";")[0], states, step)
            begun |= states
            if bare != part:
                without = joined | _past(bare, states, step)
                stripped |= without
                states = without | _past(part, states, step)
            else:
                states = joined | _past(part, states, step)
        states |= stripped
        if len(states) + len(ends) > MAX_AMBIGUITIES:
            raise UnreadableRequest("the path has too many readings")
    return states | ends


def _past(name: str, states: set[State], step: Step[State]) -> set[State]:
    """Where `name` leads to from each of `states`; an empty one may be no name at all."""
    past = {step(state, name) for state in states}
    return past if name else past | states
