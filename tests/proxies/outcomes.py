"""What comes of a case at each proxy: what the tests hold, and what the page shows, are the same rows."""

import http.client
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit import Answer
from tests.proxies.backend import Received, wsgi_backend
from tests.proxies.deployment import Deployment, deployed
from tests.proxies.test_forward_auth import a_tenant
from tests.proxies.versions import PROXIES, Proxy

Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """One case."""

    case: str
    """As the page names it."""
    outcome: str
    """What the client sees, and after a comma or colon what the API receives."""
    but: Mapping[str, str] = field(default_factory=dict)
    """Proxy's name, or name and version → another outcome there."""

    def at(self, proxy: Proxy) -> str:
        """What comes of it at one proxy."""
        return self.but.get(proxy.id) or self.but.get(proxy.name) or self.outcome


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown, a column for each proxy and version."""
    heads = [f"{proxy.name} {proxy.version}" for proxy in PROXIES.values()]
    lines = [f"| case | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    lines += [f"| {row.case} | {' | '.join(row.at(proxy) for proxy in PROXIES.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


class RequestServices:
    """A proxy as in `examples/`, in front of an API that says what it received."""

    def __init__(self, deployment: Deployment) -> None:
        self.proxy = deployment.proxy
        self._port = deployment.port
        self._number = 0

    def url(self, target: str) -> str:
        """Where the proxy takes a target."""
        return f"http://127.0.0.1:{self._port}{target}"

    def start_counting(self) -> None:
        """Learn how many requests the API has received so far."""
        self._number = Received.of(self.ask("/public/count", [])).number

    def send(self, target: str, fields: Fields, body: bytes = b"") -> tuple[str, Received | None]:
        """Send one request, byte for byte; with a body, which is to be chunked, it is a POST.

        Returns:
            Status and code of the answer, and what the API received. The next one shows whether the API received what
            was refused.
        """
        answer = self.ask(target, fields, body)
        received = Received.of(answer) if answer.status == 200 else None
        code = "" if received is not None else code_of(answer)
        if received is not None:
            assert received.number == self._number + 1, "the API heard of what was refused"
            self._number += 1
        return f"{answer.status} {code}".strip(), received

    def ask(self, target: str, fields: Fields, body: bytes = b"") -> Answer:
        """The proxy's answer to one request."""
        named = [("host", "api.example"), *fields, *([("transfer-encoding", "chunked")] if body else [])]
        head = f"{'POST' if body else 'GET'} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in named)
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(head.encode() + b"\r\n" + body)
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                reported = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, reported, response.read())


def code_of(answer: Answer) -> str:
    """The code of a refusal of Rollcall's; empty: it is the proxy's own."""
    is_rollcalls = answer.headers.get("content-type") == "application/json; charset=utf-8" and answer.body
    return answer.code if is_rollcalls else ""


@contextmanager
def gate(proxy: Proxy, folder: Path, edit: Callable[[str], str] = lambda text: text) -> Iterator[RequestServices]:
    """Start it all; end it all. `edit` changes each file of the proxy's example."""
    with wsgi_backend() as port, deployed(proxy, folder, _change, port, edit) as deployment:
        made = RequestServices(deployment)
        made.start_counting()
        yield made


def _change(content: dict[str, Any]) -> None:
    content["limits"] = {"status": [{"name": "status-ip", "per": "ip", "requests": 1, "window": 3600}]}
    content["tenants"]["other"] = a_tenant("other")
