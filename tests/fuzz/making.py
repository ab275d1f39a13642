"""Requests at random: what every route takes, and what becomes of it.

There are two ways to spoil a request. A *gentle* one is still HTTP (odd targets, fields, bodies, encodings): it is
answered, and what is pipelined behind it is read. A *fierce* one is bytes gone wrong (cut, flipped, lying about its
length, not HTTP at all): it mostly ends its connection. So a connection carries many gentle ones, a fierce one last.
"""

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from tests.fuzz import oddities as odd
from tests.fuzz.routes import ROUTES

_WEIGHTS = [route[0] for route in ROUTES]

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Known:
    """What a client may know: credentials that are good, and some that once were."""

    tenant_token: str
    user_tokens: Sequence[str]
    operator_tokens: Sequence[str]
    cookie: str
    csrf: str


@dataclass
class Request:
    """A request, until it is bytes."""

    method: bytes
    target: bytes
    fields: Fields = field(default_factory=list)
    body: bytes | None = None
    version: bytes = b"HTTP/1.1"
    chunks: int = 0
    """The number of chunks of the body; 0: it has a content-length."""

    def __bytes__(self) -> bytes:
        fields, body = list(self.fields), self.body or b""
        if self.chunks:
            fields.append((b"transfer-encoding", b"chunked"))
            body = chunked(body, self.chunks)
        elif self.body is not None:
            fields.append((b"content-length", b"%d" % len(body)))
        head = b"".join(b"%s: %s\r\n" % one for one in fields)
        return b"%s %s %s\r\n%s\r\n%s" % (self.method, self.target, self.version, head, body)


def chunked(body: bytes, many: int, after: bytes = b"\r\n") -> bytes:
    """Return `body` in so many chunks of about the same size, with what follows the last."""
    size = max(1, len(body) // many)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + after


class Maker:
    """Makes the requests of one connection.

    Args:
        random: where all chance comes from.
        known: the credentials.
        name: begins every request id.
    """

    def __init__(self, random: Random, known: Known, name: str) -> None:
        self.random = random
        self._known = known
        self._name = name
        self._made = 0

    def plain(self) -> Request:
        """A request as its route takes it."""
        [(_, method, target, who, body)] = self.random.choices(ROUTES, _WEIGHTS)
        self._made += 1
        fields = [(b"host", b"rollcall.example"), (b"x-request-id", f"{self._name}-{self._made}".encode())]
        request = Request(method.encode(), self._filled(target), fields + self._credentials(who))
        if body == "form":
            request.body = self._form()
            request.fields.append((b"content-type", b"application/x-www-form-urlencoded"))
        elif body:
            request.body = self._json(body)
        return request

    def gentle(self) -> bytes:
        """An odd one that is still HTTP."""
        request = self.plain()
        for _ in range(self.random.choice((0, 1, 1, 2, 2, 3, 5))):
            spoil = self.random.choice(
                (
                    *(self._odd_target, self._odd_query, self._odd_field, self._odd_field, self._without),
                    *(self._odd_body, self._odd_method, self._odd_name, self._again),
                )
            )
            spoil(request)
        return bytes(request)

    def fierce(self) -> bytes:
        """One that mostly ends its connection."""
        request = self.plain()
        way = self.random.random()
        if way < 0.1:
            return self.random.choice(odd.NOT_HTTP) + self.random.randbytes(self.random.randrange(300))
        if way < 0.2:
            return self._lying(request)
        if way < 0.35:
            request.method = self.random.choice((*odd.LAST_METHODS, self.random.randbytes(3)))
        elif way < 0.45:
            request.version = self.random.choice(odd.VERSIONS)
        elif way < 0.55:
            request.fields.append(self.random.choice(odd.LAST_FIELDS))
        elif way < 0.6:
            request.target = self.random.choice(odd.LAST_TARGETS)
        elif way < 0.65:
            request.fields += [(b"x%d" % n, b"y") for n in range(self.random.choice((100, 500, 513, 5000)))]
        return self._damaged(bytes(request))

    def listening(self) -> bytes:
        """A stream of events, which does not end."""
        fields: Fields = [(b"host", b"a"), (b"authorization", f"Bearer {self._known.operator_tokens[0]}".encode())]
        if self.random.random() < 0.7:
            fields.append((b"last-event-id", self._text()))
        return bytes(Request(b"GET", b"/admin/v1/events?tenant=acme", fields))

    def _filled(self, target: str) -> bytes:
        user = self._in_target() if self.random.random() < 0.1 else b"u%d" % self.random.randrange(40)
        return target.encode().replace(b"USER", user)

    def _credentials(self, who: str) -> Fields:
        known, pick = self._known, self.random.choice
        if who == "operator":
            return [(b"authorization", f"Bearer {pick(known.operator_tokens)}".encode())]
        if who == "browser":
            return [(b"cookie", known.cookie.encode()), (b"x-csrf-token", known.csrf.encode())]
        if who == "nobody":
            return []
        fields = [(b"x-tenant-token", known.tenant_token.encode()), (b"x-token", pick(known.user_tokens).encode())]
        if who == "preflight":
            return [*fields, (b"origin", pick((b"https://app.example", b"https://evil.example", b"\xff")))]
        if who in ("original", "forwarded"):
            reported = pick(odd.TARGETS) if self.random.random() < 0.4 else b"/api/payments/1?x=/../y"
            uri = b"uri" if who == "forwarded" else b"URI"
            fields += [
                (b"x-%s-method" % who.encode(), pick((b"GET", b"POST", b"get", b""))),
                (b"x-original-" + uri, reported),
            ]
            if who == "forwarded":
                fields[-1] = (b"x-forwarded-uri", reported)
        return fields

    def _json(self, kind: str) -> bytes:
        content: dict[str, Any] = dict(odd.BODIES[kind])
        if self.random.random() < 0.4:
            content[self.random.choice((*content, "reason", "x", "everywhere"))] = self.random.choice(odd.VALUES)
        return json.dumps(content).encode()

    def _form(self) -> bytes:
        fields = {b"csrf": self._known.csrf.encode(), b"token": b"wrong", b"next": b"/dashboard"}
        if self.random.random() < 0.5:
            fields[self.random.choice(list(fields))] = self._text()
        return b"&".join(b"=".join(one) for one in fields.items())

    def _text(self) -> bytes:
        return self.random.choice(odd.TEXTS)

    def _in_target(self) -> bytes:
        """Mostly without the bytes that the parser refuses by itself."""
        text = self._text()
        return text if self.random.random() < 0.01 else quote(text, safe="%/?;=&.:@{}\"'<>\\$*~|^`+,!()[]").encode()

    def _odd_target(self, request: Request) -> None:
        path, mark, query = request.target.partition(b"?")
        names = path.split(b"/")
        how = self.random.randrange(5)
        if how == 0:
            request.target = self.random.choice(odd.TARGETS)
            return
        if how == 1:
            path = (
                self.random.choice((b"http://a.example", b"HTTP://u:p@[::1]:9999", b"https://x", b"//", b"/.")) + path
            )
        elif how == 2:
            at = self.random.randrange(1, len(path) + 1)
            path = path[:at] + b"".join(b"%%%02x" % one for one in path[at : at + 1]) + path[at + 1 :]
        else:
            names[self.random.randrange(1, len(names)) if len(names) > 1 else 0] = self._in_target()
            path = b"/".join(names)
        request.target = path + mark + query

    def _odd_query(self, request: Request) -> None:
        path, _, query = request.target.partition(b"?")
        given = [one.partition(b"=")[0] for one in query.split(b"&") if one]
        name = self.random.choice((*given, *odd.QUERIES))
        added = b"%s=%s" % (name, self._in_target())
        kept = [one for one in query.split(b"&") if one and (self.random.random() < 0.1 or not one.startswith(name))]
        request.target = path + b"?" + b"&".join([*kept, added])

    def _odd_field(self, request: Request) -> None:
        name = self.random.choice(list(odd.FIELDS))
        value = self.random.choice(odd.FIELDS[name] if name == b"expect" else (*odd.FIELDS[name], self._text()))
        request.fields = [one for one in request.fields if one[0] != name or self.random.random() < 0.1]
        request.fields.append((name, value.replace(b"\n", b"")))

    def _odd_name(self, request: Request) -> None:
        at = self.random.randrange(len(request.fields))
        name, value = request.fields[at]
        others = (name.upper(), name.title()) if name == b"host" else (name.upper(), b"x-" + name, name[::-1])
        request.fields[at] = (self.random.choice(others), value)

    def _odd_method(self, request: Request) -> None:
        request.method = self.random.choice(odd.METHODS)

    def _without(self, request: Request) -> None:
        if len(request.fields) > 1:
            del request.fields[self.random.randrange(1, len(request.fields))]

    def _again(self, request: Request) -> None:
        again = [one for one in request.fields if one[0].lower() not in (b"host", b"content-type")]
        if again:  # a second one of those the parser refuses by itself
            request.fields.append(self.random.choice(again))

    def _odd_body(self, request: Request) -> None:
        body = request.body or b'{"reason": "because"}'
        how = self.random.randrange(6)
        if how == 0:
            body = self.random.choice(odd.CONTENTS)
        elif how == 1:
            at = self.random.randrange(len(body))
            body = body[:at] + self.random.randbytes(self.random.randrange(4)) + body[at + self.random.randrange(3) :]
        elif how == 2:
            coding, body = self._packed(body)
            request.fields.append((b"content-encoding", coding))
        elif how == 3:
            request.chunks = self.random.randrange(1, 5)
        request.body = body

    def _packed(self, body: bytes) -> tuple[bytes, bytes]:
        return self.random.choice(((b"gzip", gzip.compress(body, 1)), (b"deflate", zlib.compress(body))))

    def _lying(self, request: Request) -> bytes:
        """About what follows: how long it is, where it ends, how it is packed."""
        how = self.random.random()
        if how < 0.25:
            coding, packed = self._packed(request.body or b"{}")
            request.body = self.random.choice((packed[:-5], packed[:3] + b"\xff" + packed[4:], packed + b"x", b"{}"))
            request.fields.append((b"content-encoding", coding))
            return bytes(request)
        request.body = None
        if how < 0.6:
            request.fields.append((b"content-length", self.random.choice(odd.LENGTHS)))
            return bytes(request) + self._text()
        request.fields.append((b"transfer-encoding", self.random.choice(odd.CODINGS)))
        if self.random.random() < 0.3:
            request.fields.append((b"content-length", b"5"))
        return bytes(request) + self.random.choice(odd.CHUNKS)

    def _damaged(self, raw: bytes) -> bytes:
        damaged = bytearray(raw)
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 8))):
            at = self.random.randrange(len(damaged) or 1)
            how = self.random.randrange(5)
            if how == 0:
                damaged[at : at + 1] = bytes([damaged[at] ^ 1 << self.random.randrange(8)]) if damaged else b""
            elif how == 1:
                damaged[at:at] = self.random.choice(odd.BYTES)
            elif how == 2:
                del damaged[at : at + self.random.randrange(1, 20)]
            elif how == 3:
                del damaged[at:]
            else:
                damaged[at:at] = self.random.randbytes(self.random.randrange(1, 9))
        return bytes(damaged)
