"""Heads that are made of templates, and what is kept of them."""

from pathlib import Path

import pytest

from service.web import api
from service.web.server import known_heads
from service.web.server.head_reader import HeadReader
from service.web.server.head_templates import UNREAD, cut, template_of
from service.web.server.known_heads import COST, COST_PER_BYTE, KnownHeads
from service.web.server.request_head import RequestHead


@pytest.mark.parametrize(
    "fields",
    [
        "x-request-id: a\r\n b",  # folded (RFC 9112, section 5.2)
        "x-request-id: a \tb",
        "x-request-id:  a",
        "x-request-id : a",
        "x-request-id: a\r\nX-Request-Id: b",
        "x-request-id: \xe4",
        "x-request-id: ",
    ],
)
def test_a_field_that_is_not_read_as_it_was_cut_makes_no_template(fields: str) -> None:
    data = f"GET /auth/status HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n".encode("latin-1")
    reader = HeadReader("127.0.0.1")
    try:
        reader.read(data)
    except Exception:
        return  # it is refused
    found = cut(data)
    assert reader.head is not None
    template = None if found is None else template_of(found, reader.head)
    assert template is None or template.head.headers.getall("x-request-id", []) == []


def test_what_a_template_fills_in_is_what_the_parser_reads() -> None:
    fields = ["x-token", "X-Request-ID", "x-forwarded-for", "X-Original-URI", "Authorization", "traceparent", "x"]

    def head_of(data: bytes) -> RequestHead:
        reader = HeadReader("127.0.0.1")
        reader.read(data)
        assert reader.head is not None
        return reader.head

    def request(tag: str, names: list[str]) -> bytes:
        values = {name: f"{tag} {name}, {tag}" for name in names} | {"x": "x"}
        if "Authorization" in names:
            values["Authorization"] = f"Bearer {tag}"
        lines = "".join(f"{name}: {values[name]}\r\n" for name in names)
        return f"GET /auth/status HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode()

    for first in range(len(fields)):
        names = fields[first:] + fields[:first]
        for left_out in ("x-token", "Authorization"):
            own = [name for name in names if name != left_out]
            one, other = request("one", own), request("other, longer", own)
            found, again = cut(one), cut(other)
            assert found is not None
            assert again is not None
            assert found.rest == again.rest
            template = template_of(found, head_of(one))
            assert template is not None
            filled = template.read(again.values)
            in_full = head_of(other)
            assert sorted(filled.headers.items()) == sorted((n.lower(), v) for n, v in in_full.headers.items())
            for name in ("method", "raw_path", "path", "keep_alive", "version", "remote", "can_be_hot"):
                assert getattr(filled, name) == getattr(in_full, name)


def test_no_step_of_a_request_reads_a_field_that_is_said_to_be_unread() -> None:
    texts = [path.read_text().lower() for path in Path(api.__file__).parent.glob("*.py")]
    assert len(texts) > 10
    for name in UNREAD:
        assert not [text for text in texts if f'"{name.lower()}"' in text], name


def test_a_head_is_not_cut_where_a_value_might_end_it() -> None:
    """Two requests of one packet, or a body that looks like a field, are not one head."""
    one = b"GET /a HTTP/1.1\r\nhost: a\r\nx-request-id: 1\r\n\r\n"
    found = cut(one)
    assert found is not None
    for other in (one + one, one + b"x", one[:-2], one.replace(b"1\r\n\r\n", b"1\n\r\n"), b"\r\n" + one):
        again = cut(other)
        assert again is None or again.rest != found.rest


def test_templates_are_bounded_and_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def request(kind: int, number: int) -> bytes:
        return f"GET /{kind} HTTP/1.1\r\nhost: a\r\nx-request-id: {number}\r\n\r\n".encode()

    monkeypatch.setattr(known_heads, "MAX_TEMPLATE_BYTES", 3 * (COST + COST_PER_BYTE * len(request(1, 1))))
    heads = KnownHeads()
    for kind in range(4):
        for number in range(3):
            data = request(kind, number)
            reader = HeadReader("127.0.0.1")
            reader.read(data)
            assert reader.head is not None
            reader.head.judged = "judged"
            heads.learn(data, reader.head)
    assert [heads.similar(request(kind, 9), "127.0.0.1") is not None for kind in range(4)] == [False, True, True, True]
    assert heads.similar(request(3, 8), "127.0.0.2") is None


def test_with_more_users_than_heads_their_template_is_used_and_heads_are_renewed() -> None:
    requests = [f"GET / HTTP/1.1\r\nhost: a\r\nx-token: {number}\r\n\r\n".encode() for number in range(40)]
    heads = KnownHeads(10 * (COST + COST_PER_BYTE * len(requests[-1])))
    read_in_full, kept = [], []

    def ask(data: bytes) -> None:
        if heads.get(data) is not None:
            return
        similar = heads.similar(data, "127.0.0.1")
        if similar is not None:
            if similar[0].is_known:
                kept.append(data)
            return
        reader = HeadReader("127.0.0.1")
        reader.read(data)
        assert reader.head is not None
        reader.head.judged = "judged"
        heads.learn(data, reader.head)
        read_in_full.append(data)

    for _ in range(3):
        for data in requests:
            ask(data)
    assert all(heads.get(data) is None for data in requests[:2]), "the oldest have gone"
    assert len(read_in_full) == 2
    kept.clear()
    known = {data for data in requests if heads.get(data) is not None}
    assert len(known) == 10
    for _ in range(40):
        for data in requests:
            ask(data)
    assert len(read_in_full) == 2
    assert 0 < len(kept) < 40 * len(requests) / 10
    assert {data for data in requests if heads.get(data) is not None} != known, "no head is kept for ever"
    assert len(heads) == 11, "ten heads, and the template"
