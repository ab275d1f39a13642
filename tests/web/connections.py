"""Connections to the service, requests as bytes, and answers that can be compared."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from tests.kit import TENANT_TOKEN, credentials, sign, tenant

ROUTES: dict[str, Any] = {
    "routes": [{"path": "/open/*", "open": True}, {"path": "/pay/*", "capability": "pay"}, {"path": "/api/*"}],
    "server": {"trusted_proxies": ["127.0.0.1"]},
    "limits": {
        "logout": [{"name": "logout-ip", "per": "ip", "requests": 30, "window": 3600}],
        "status": [{"name": "status-user", "per": "user", "requests": 3, "window": 3600}],
    },
    "tenants": {"acme": tenant(restricted_capabilities=["pay"])},
}


class Connection:
    """Raw requests over one connection, one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return head + (await self.reader.readexactly(int(length[1])) if length else b"")

    async def ask(self, *requests: bytes) -> bytes:
        self.writer.write(b"".join(requests))
        return await self.answer()


def asking(path: str, headers: dict[str, str], *, method: str = "GET", version: str = "1.1") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "a", **headers}.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode()


Connect = Callable[[], Any]


def about(method: str, target: str, headers: dict[str, str]) -> dict[str, str]:
    return {"x-original-method": method, "x-original-uri": target, **headers}


ASKED = {
    "status": ("/auth/status", credentials()),
    "status with a request id": ("/auth/status", credentials() | {"x-request-id": "mine"}),
    "status passive": ("/auth/status", credentials("nobody") | {"x-passive": "true"}),
    "status, neither passive nor not": ("/auth/status", credentials() | {"x-passive": "yes"}),
    "logout": ("/auth/logout", credentials()),
    "logout, prefetched": ("/auth/logout", credentials() | {"sec-purpose": "prefetch;prerender"}),
    "no tenant token": ("/auth/status", {"x-token": sign("alice")}),
    "no user token": ("/auth/status", {"x-tenant-token": TENANT_TOKEN}),
    "expired": ("/auth/logout", credentials(exp=1000)),
    "suspended": ("/auth/status", credentials("eve")),
    "too many": ("/auth/status", credentials("greedy")),
    "verify": ("/auth/verify/nginx", about("GET", "/api/x", credentials())),
    "verify, minimal": ("/auth/verify/nginx", about("GET", "/api/x", credentials() | {"prefer": "return=minimal"})),
    "verify, open": ("/auth/verify/nginx", about("GET", "/open/x", {})),
    "verify, restricted": ("/auth/verify/nginx", about("GET", "/pay/x", credentials())),
    "verify, no rule": ("/auth/verify/nginx", about("GET", "/elsewhere", credentials())),
    "another token as bearer": ("/auth/status", credentials() | {"authorization": f"Bearer {sign('bob')}"}),
    "another scheme beside the token": ("/auth/status", credentials() | {"authorization": "Basic dTpw"}),
    "verify, untold": ("/auth/verify/nginx", credentials()),
    "verify, any proxy": ("/auth/verify", about("GET", "/api/x", credentials())),
    "envoy": ("/auth/verify/envoy/api/x", credentials()),
    "envoy, suspended": ("/auth/verify/envoy/api/x", credentials("eve")),
}


def comparable(answer: bytes) -> list[str]:
    changing = r"req-[0-9a-f]+|\d{4}-\d\d-\d\dT[\d:.]+Z|(?<=;t=)\d+|(?<=-Reset: )\d+|(?<=;r=)\d+|(?<=Remaining: )\d+"
    head, _, body = re.sub(changing, "*", answer.decode()).partition("\r\n\r\n")
    fields = [line.partition(": ") for line in head.split("\r\n")]
    lines = [f"{name.lower()}: {value}" for name, _, value in fields if name.lower() not in ("date", "connection")]
    return [*sorted(lines), body]
