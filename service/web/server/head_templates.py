"""Requests whose bytes are new only in a few fields: the user's token, ids, traces, what a proxy adds.

A proxy gives each request an id, so its bytes never come again; without the values of such fields they do. Here these
values are cut out. What is left identifies a template: a request that was read in full before, with other values in the
same places. A field is cut only as most clients write it, and a template is made only where the parser has read exactly
what was cut. So a request that fits a template is read as the parser would read it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from multidict import istr

from service.web.api.envelope import REQUEST_ID
from service.web.server.request_head import RequestHead

_BEARER = tuple(f"{name}: {scheme} " for name in ("authorization", "Authorization") for scheme in ("bearer", "Bearer"))
UNREAD = (
    *("Traceparent", "Tracestate", "B3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-Correlation-ID"),
    *("X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "Uber-Trace-Id"),
    *("CF-Ray", "X-Request-Start", "X-Real-IP"),
)
"""Fields of tracing systems and proxies that no step of a request reads."""
_READ = ("X-Original-URI", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method")
"""Fields that decide something: a request that has one of them is judged by itself, and only its parsing is saved."""
_READ_NAMES = frozenset(name.lower() for name in _READ)
_TOKENS = ("x-token", "authorization")
_FORWARDED_FOR = "x-forwarded-for"


class OwnFields(NamedTuple):
    """What a request has in the fields in which it may differ from the others of its template."""

    token: str | None
    """The user's token; None: all requests of the template have the same one, or none."""
    request_id: str | None
    """`x-request-id`; None: as above."""
    forwarded_for: str | None
    """`x-forwarded-for`; None: as above."""
    judged: object
    """The judgement of the request that made the template. Apart from these fields it applies to this request, too."""


class Cut(NamedTuple):
    """The bytes of a request in two parts."""

    rest: tuple[bytes, ...]
    """What is left, in order: at odd places the name of a field whose value was cut, with all up to the value."""
    values: list[bytes]


def _pattern() -> re.Pattern[bytes]:
    """Return a pattern of the fields that are cut. By their first letters: the engine tries alternatives in turn."""
    names = ("X-Token", "X-Request-ID", "X-Forwarded-For", *UNREAD, *_READ)
    spelt = sorted({*(f"{one}: " for name in names for one in (name, name.lower(), name.title())), *_BEARER})
    groups = [
        f"{start}(?:{'|'.join(re.escape(one[len(start) :]) for one in same)})"
        for start, same in groupby(spelt, key=lambda one: one[:3])
    ]
    # A value of visible ASCII, without white space at its ends: the parser would drop that.
    return re.compile(rf"(\r\n(?:{'|'.join(groups)}))([!-~](?:[ -~]*[!-~])?)(?=\r\n)".encode())


_OWN = _pattern()


def cut(data: bytes) -> Cut | None:
    """Cut the values out of a request; None: it has none of these fields."""
    parts = _OWN.split(data)
    if len(parts) == 1:
        return None
    values = parts[2::3]
    del parts[2::3]
    return Cut(tuple(parts), values)


@dataclass(slots=True, eq=False)
class HeadTemplate:
    """Requests that differ only in the values of some fields."""

    head: RequestHead
    """The head of the request that made the template, without these fields. Its judgement is kept with it."""
    fields: Sequence[tuple[istr, str]]
    """Their names, and what precedes what was cut of each value."""
    token_at: int | None
    request_id_at: int | None
    forwarded_for_at: int | None
    is_judged_alike: bool
    """Whether what was judged holds for all of them, apart from the user, the id and the client's address."""

    def read(self, values: Sequence[bytes]) -> RequestHead:
        """Return the head of a request with all its fields, and without a judgement."""
        own = zip(self.fields, values, strict=True)
        return self.head.with_fields([(name, f"{before}{value.decode()}") for (name, before), value in own])

    def own(self, values: Sequence[bytes]) -> OwnFields | None:
        """Return the fields of a request that its judgement depends on; None: it needs a judgement of its own."""
        if not self.is_judged_alike:
            return None
        token_at, request_id_at, forwarded_for_at = self.token_at, self.request_id_at, self.forwarded_for_at
        return OwnFields(
            None if token_at is None else values[token_at].decode(),
            None if request_id_at is None else values[request_id_at].decode(),
            None if forwarded_for_at is None else values[forwarded_for_at].decode(),
            self.head.judged,
        )


def template_of(found: Cut, head: RequestHead) -> HeadTemplate | None:
    """Return the template of a request that was read as `head`; None: it was not read as it was cut."""
    headers = head.headers
    fields = []
    token_at = request_id_at = forwarded_for_at = None
    is_judged_alike = True
    for at, (before, value) in enumerate(zip(found.rest[1::2], found.values, strict=True)):
        name, _, scheme = before.decode().strip("\r\n").partition(": ")
        field = name.lower()
        if headers.getall(field, ()) != [f"{scheme}{value.decode()}"]:
            return None
        fields.append((istr(field), scheme))
        if field in _TOKENS:
            token_at = at
        elif field == REQUEST_ID:
            request_id_at = at
        elif field == _FORWARDED_FOR:
            forwarded_for_at = at
        elif field in _READ_NAMES:
            is_judged_alike = False
    if token_at is not None and sum(field in headers for field in _TOKENS) > 1:
        return None  # one of them is judged by the other
    names = frozenset(name for name, _ in fields)
    return HeadTemplate(head.without(names), fields, token_at, request_id_at, forwarded_for_at, is_judged_alike)
