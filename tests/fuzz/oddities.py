"""The vocabulary of the fuzzers: values that somebody, somewhere, once read wrongly."""

from collections.abc import Mapping, Sequence
from typing import Any

TEXTS: Sequence[bytes] = (
    *(b"", b"-", b"0", b"-1", b"1", b"9" * 25, b"1e999", b"NaN", b"true", b"null", b"*", b"~", b"=", b"&&&", b";"),
    b"{}",
    *(b"%", b"%zz", b"%00", b"%0d%0aset-cookie:a", b"%ff", b"%c0%af", b"%ED%A0%80", b"%2e%2e", b"%2f", b"%252e"),
    b"%5c",
    *(b".", b"..", b"...", b"a" * 128, b"a" * 129, b"a" * 5000, b"<script>", b"${jndi:x}", b"{{7*7}}", b"'\"", b"\\"),
    *(b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\xae", b"\xc2\x85", b"\x7f"),
    b"\t",
    *("\u0661-\u0661".encode(), "\u00b2".encode(), "\uff11".encode(), b"0-0", b"1-1", b"999999999999999-" + b"9" * 19),
    *(b"1.alice", b"999999999999999.", b"1.%ff", b"1.\xff", b"1.", b".", b"logged_in", b"none", b"alice", b"u1"),
    b"u 1",
    *(b"1.2.3.4", b"::1", b"2001:db8::1", b"1.2.3.4:80", b"[::1]", b"%31", b"\xef\xbb\xbf", b"constructor"),
    b"__proto__",
)
"""For whatever is text: targets, fields, users, forms. A few are numbers to somebody."""

TARGETS: Sequence[bytes] = (
    *(b"/", b"*", b"//", b"/..", b"/.", b"/%2e%2e/%2e%2e/etc/passwd", b"/a//b", b"/a/./b/../c", b"/?", b"/#", b"/?#?"),
    *(b"/;", b"/%", b"/auth", b"/auth/", b"/auth/status/", b"/auth//status", b"/auth/%73tatus", b"/AUTH/STATUS"),
    *(b"/auth/verify/", b"/auth/verify/nobody", b"/auth/verify?x", b"/auth/verify/envoy", b"/auth/verify/envoy?x"),
    *(
        b"/auth/verify/envoy//",
        b"/auth/verify/envoy/a/%2e%2e/b",
        b"/auth/verify/envoy/a;b",
        b"/auth/verify/envoy/a%2fb",
    ),
    *(b"/dashboard/", b"/dashboard/static/", b"/dashboard/static/%00", b"/dashboard/static/../x", b"/dashboard?x=%ff"),
    *(b"/dashboard/static/%2e%2e/%2e%2e/app.py", b"/dashboard/static/" + b"a" * 300, b"/dashboard/static/%ff"),
    *(b"/docs/ui/", b"/docs/ui/..%2f", b"/docs/", b"/admin/v1", b"/admin/v1/", b"/admin/v1/tenants/"),
    *(b"/admin/v1/tenants/%00/sessions", b"/admin/v1/tenants/acme/limits/%ff", b"/admin/v1/tenants/acme/users/%ff"),
    *(b"/api/payments/..%2f..%2fpublic", b"/public;x/../api", b"/a" * 3000, b"/%61" * 2000, b"http://a/auth/status"),
    *(
        b"https://u:p@h/auth/verify/nginx",
        b"/auth/verify/envoy/a%2fb",
        b"http://a:9999/dashboard",
        b"http://a/auth/verify/envoy/../x",
    ),
)
"""What requests are about, where it is not what the route says."""
LAST_TARGETS: Sequence[bytes] = (
    *(b"/\xff\xfe", b"/dashboard?x=\xff", b"/dashboard/static/\xff", b"/admin/v1/tenants/acme/limits/\xff", b"/a b"),
    *(
        b"\t/",
        b"http://[::1]:x/",
        b"http://a:99999/dashboard",
        b"http://",
        b"a:b",
        b"mailto:x",
        b"",
        b"x",
        b"%2f",
        b"a:443",
    ),
    *(b"/" + b"long" * 5000, b"/?" + b"q" * 70_000, b"/auth/verify/envoy/\xff", b"\t/"),
)
"""The same, of a kind that the parser refuses by itself."""

QUERIES: Sequence[bytes] = b"status user prefix after limit tenant subject exact next x %00 %ff".split()

METHODS: Sequence[bytes] = (
    *(b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"PROPFIND", b"MKCOL", b"LOCK"),
    *(b"M-SEARCH", b"PURGE", b"REPORT", b"SEARCH"),
)
LAST_METHODS: Sequence[bytes] = (
    *(b"CONNECT", b"get", b"", b"GETT", b"PRI", b"G\x00T", b"\xff", b"A" * 5000, b"QUERY", b"SOURCE"),
    b"DESCRIBE",
)

FIELDS: Mapping[bytes, Sequence[bytes]] = {
    b"x-tenant-token": (b"tenant-token-of-globex", b"nobody's"),
    b"x-token": (b"a.b.c", b"..", b"a" * 9000, b"eyJhbGciOiJub25lIn0.e30.", b"eyJhbGciOiJIUzI1NiJ9.W10.AAAA"),
    b"authorization": (b"Bearer", b"bearer  x", b"Basic eDp5", b"Bearer a.b.c", b"Bearer \xff"),
    b"x-request-id": (b"a" * 128, b"a" * 129, b"a b", b"a\xff"),
    b"x-passive": (b"true", b"TRUE", b"1"),
    b"x-forwarded-for": (b"1.2.3.4, 127.0.0.1", b"2001:db8::1", b",,,", b"1.2.3.4%x", b"1," * 3000),
    b"forwarded": (b"for=1.2.3.4", b'for="[::1]:1";by=x', b"for=" * 1000, b'for="'),
    b"x-forwarded-proto": (b"https", b"http"),
    b"x-forwarded-method": (b"GET", b"get"),
    b"x-forwarded-uri": (*TARGETS, *LAST_TARGETS[:4]),
    b"x-original-method": (b"GET", b"A" * 40),
    b"x-original-uri": (*TARGETS, *LAST_TARGETS[:4]),
    b"prefer": (b"return=minimal", b"return=representation"),
    b"origin": (b"https://app.example", b"null"),
    b"cookie": (b"rollcall", b"rollcall=", b"rollcall=a.b.c", b"rollcall=\xff", b'a="\\', b"=;=;", b"a=b;" * 500),
    b"x-csrf-token": (b"wrong",),
    b"sec-fetch-site": (b"cross-site", b"none"),
    b"content-type": (
        *(b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"/", b";;;"),
        *(b"application/x-www-form-urlencoded; charset=" + one for one in (b"utf-7", b"utf-16", b"punycode", b"rot13")),
        *(b"application/x-www-form-urlencoded; charset=" + one for one in (b"unicode_escape", b"idna", b"\xff", b"x")),
    ),
    b"accept": (b"text/html", b"*/*;q=x"),
    b"accept-encoding": (b"gzip, br", b"identity;q=0", b"*"),
    b"range": (b"bytes=0-3", b"bytes=5-1", b"bytes=-0", b"bytes=-99999", b"bytes=a-b", b"bytes=0-1,3-4", b"lines=1-2"),
    b"if-modified-since": (b"Mon, 32 Foo 99999 99:99:99 GMT", b"Thu, 01 Jan 1970 00:00:00 GMT", b"0"),
    b"if-none-match": (b"*", b'"x"', b'W/"', b'"' * 50),
    b"if-match": (b"*", b'"x"'),
    b"if-range": (b'"x"', b"Thu, 01 Jan 1970 00:00:00 GMT"),
    b"last-event-id": (b"1-1",),
    b"expect": (b"100-continue", b"100-Continue"),
    b"te": (b"trailers",),
    b"access-control-request-method": (b"GET",),
}
"""What is read somewhere, here or in aiohttp, with values that are nearly right."""

LAST_FIELDS: Sequence[tuple[bytes, bytes]] = (
    *((b"host", one) for one in (b"a", b"\xff", b"a:99999", b"a:b:c", b"", b"[::1", b"a/b", b"a@b")),
    *((b"connection", one) for one in (b"close", b"keep-alive", b"upgrade", b"x, close", b"transfer-encoding")),
    *((b"upgrade", one) for one in (b"websocket", b"h2c", b"tcp", b"\xff")),
    *((b"expect", one) for one in (b"tea", b"", b"100-continue, tea")),
    *((b"sec-websocket-key1", b"x"), (b"", b"x"), (b"a b", b"x"), (b"a\xff", b"x"), (b"a:b", b"x"), (b"x", b"a\x00b")),
    *((b"x", b"y" * 17_000), (b"x" * 17_000, b"y"), (b"x", b"a\r\n folded"), (b"x", b"a\nb: c"), (b"x", b"a\rb")),
    *((b"content-length", b"0"), (b"content-encoding", b"gzip, gzip"), (b"trailer", b"x")),
)
"""Those that may end a connection, by right or by mistake."""

VERSIONS: Sequence[bytes] = (
    *(b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/9.9", b"HTTP/1.", b"http/1.1", b"HTTP/1.1 x", b""),
    b"ICE/1.0",
)
LENGTHS: Sequence[bytes] = (
    *(b"0", b"1", b"5", b"70000", b"999999999", b"18446744073709551615", b"18446744073709551616", b"-1", b"+1"),
    *(b"1_0", b" "),
    *(b"0x5", b"1 1", b"1,1", b"\xd9\xa1", b"5\t", b"1e1"),
)
CODINGS: Sequence[bytes] = (
    *(b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"chunked,chunked"),
    b"\x0bchunked",
)
CHUNKS: Sequence[bytes] = (
    *(b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"zz\r\n\r\n", b"-1\r\n\r\n"),
    b"5\r\nhelloworld\r\n0\r\n\r\n",
    *(b"ffffffffffffffffff\r\nx", b'5;ext="\r\nhello\r\n0\r\n\r\n', b"0\r\nx: y\r\n\r\n"),
    *(b"0\r\nbad trailer\r\n\r\n", b"\r\n"),
    *(b"5\nhello\n0\n\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"5;" + b"x" * 20_000),
    b"00000000000000000005",
)
NOT_HTTP: Sequence[bytes] = (
    *(b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 50),
    b"\r\n" * 50,
    *(b"SSH-2.0-x\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"*1\r\n$4\r\nPING\r\n", b"GET /\r\n"),
    *(b"HTTP/1.1 200 OK\r\n\r\n", b"CONNECT \r\n\r\n", b"GET \r\n\r\n"),
)
BYTES: Sequence[bytes] = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b":", b" ", b"\t", b"\r\n\r\n", b"\x0b", b"\x85", b"%", b","),
    b"\x1b[2J",
)

BODIES: Mapping[str, Mapping[str, Any]] = {
    "reason": {"reason": "because"},
    "act": {"reason": "because", "everywhere": False},
    "many": {"users": ["u1", "u2", "nobody"], "reason": "because"},
    "restrict": {"until": "2030-01-01T00:00:00Z", "reason": ""},
    "revoke": {"before": "2020-01-01T00:00:00Z"},
    "limit": {"requests": 50, "window": 60},
    "reset": {"subject": "1.2.3.4"},
    "terminate": {"strategy": "soft", "reason": "enough"},
}
"""What the admin API reads, and a user's own end."""

VALUES: Sequence[Any] = (
    *(None, True, 0, -1, 1, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "x", "a" * 501, "a" * 129),
    *([], {}),
    *("\ud800", "\x00", "\u202e", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2030-01-01", "1e5", 1e11),
    *(["u1"] * 1000, ["u1", 1], [["u1"]], {"a": {"b": [{}]}}, "soft", "hard", ["\ud800"], ["x" * 129]),
)
CONTENTS: Sequence[bytes] = (
    *(b"", b"null", b"[]", b"0", b'""', b"{", b"\xff", b"\xef\xbb\xbf{}", b"{}{}", b"[" * 5000, b'{"a":' * 3000),
    b"9" * 5000,
    *(b'{"reason": "\\ud800"}', b'{"reason": 1, "reason": ""}', b'{"users": ["\\udfff"]}', b"\x1f\x8b", b"a" * 70_000),
    *(b"csrf=%ff&token=%ED%A0%80", b"a=b&" * 2000, b"token=+2AA-", b"token=\\ud800&next=\\udfff", b"=&=&="),
    b"a" * 300_000,
)
