"""How servers read the path of a request target. Protected routes are matched against every way.

A proxy asks about a path that another server will read. The two need not agree: one decodes `%2f` before it splits,
another after; one resolves `..`, another takes it as a name; some cut `;…` off each segment. What can be read in
several ways is judged by the rules of all of them, so no reading slips past the rule that is meant for it. What no
server should be asked for is refused: what does not decode, leaves the root, or decodes to something encoded again.

Source: RFC 3986, sections 3.3, 5.2.4 and 6.2.2; nginx's `ngx_http_parse_complex_uri`, whose reading comes first.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from service.core.errors import UnreadableRequest

Segments = tuple[str, ...]

MAX_CHARS = 8192
"""Of a target that is not plain; a longer one is refused."""

_NAME = r"[A-Za-z0-9_~!$&'()*+,=:@-]"
_PLAIN = re.compile(rf"(?:/{_NAME}(?:{_NAME}|\.)*)*/?")
"""What every server reads alike, which is nearly every path: no dots in front, nothing encoded, no parameters."""
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
_RAW = re.compile(rb"[^\x00-\x20\x7f\\#]*")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_AGAIN = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


def readings(target: str) -> tuple[Segments, ...]:
    """Every way to read the path of `target`, as segments: the normalised one first. Most targets have one.

    Args:
        target: as the client sent it: `/path?query`, or in absolute form. Bytes that are not UTF-8 as surrogates.

    Raises:
        UnreadableRequest: there is no way that can be trusted.
    """
    path = target.partition("?")[0]
    if path and _PLAIN.fullmatch(path):
        return (tuple(filter(None, path.split("/"))),)
    if len(path) > MAX_CHARS:
        raise UnreadableRequest("the path is too long")
    if absolute := _AUTHORITY.match(path):
        path = path[absolute.end() :] or "/"
    if not path.startswith("/"):
        raise UnreadableRequest("the target is no path")
    return tuple(dict.fromkeys(_read(_decoded(path.encode("utf-8", "surrogateescape")))))


def _decoded(path: bytes) -> list[str]:
    """What stands between the slashes, decoded once; an encoded slash is still part of its segment."""
    if not _RAW.fullmatch(path):
        raise UnreadableRequest("the path holds a control character, a space, a backslash or a fragment")
    if _BROKEN_ESCAPE.search(path):
        raise UnreadableRequest("the path holds a % that encodes nothing")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in path.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise UnreadableRequest("the path is not UTF-8") from None
    for segment in segments:
        if _CONTROLS.search(segment):
            raise UnreadableRequest("the path encodes a control character or a backslash")
        if _ENCODED_AGAIN.search(segment):
            raise UnreadableRequest("the path is encoded twice")
    return segments


def _read(segments: list[str]) -> Iterator[Segments]:
    split = "/".join(segments).split("/")
    for cut in (split, segments) if len(split) > len(segments) else (split,):
        for rooted in (cut, cut[2:]) if len(cut) > 1 and not cut[0] else (cut,):  # `//host/path`: perhaps a host
            named = [segment.partition(";")[0] for segment in rooted]
            for names in (rooted, named) if named != rooted else (rooted,):
                yield _resolved(names)
                if ".." in names:
                    yield tuple(name for name in names if name not in ("", "."))


def _resolved(names: list[str]) -> Segments:
    way: list[str] = []
    for name in names:
        if name == "..":
            if not way:
                raise UnreadableRequest("the path leaves the root")
            way.pop()
        elif name not in ("", "."):
            way.append(name)
    return tuple(way)
