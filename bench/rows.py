"""Everything that is measured side by side."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import gate, peers
from bench.servers import (
    ADDRESSES,
    HUGE,
    PATHS,
    ROUTES,
    STACKS,
    TRUSTING,
    TURNS_WARM,
    USERS,
    Requests,
    Row,
    asking,
    constant,
    in_turn,
    rollcall,
)
from bench.tokens import Fresh, Signer

BASE, OURS = "bare aiohttp, a constant", "Rollcall, /auth/status"
STATUS = b'"logged_in"'


def fresh_name(alg: str) -> str:
    return f"Rollcall, fresh {alg} tokens"


def cycle(raws: list[bytes]) -> Requests:
    return lambda number: raws[number % len(raws)]


def with_own_ids(form: bytes) -> Requests:
    """What a proxy sends: its id and its trace are new for each request, so the bytes never come again."""
    return lambda number: form % (number, number, number)


def rows(folder: Path, redis_port: int, signers: Iterable[Signer]) -> tuple[list[Row], list[str]]:
    """The rows, and which are left out and why."""
    ours = partial(rollcall, folder, redis_port=redis_port)
    fresh = {signer.alg: Fresh(signer) for signer in signers}
    users = cycle([asking("/auth/status", f"user-{n}") for n in range(USERS)])
    found = [
        *_constants(),
        *_admitted(ours, users),
        *_fresh(ours, fresh, [signer.configured for signer in signers]),
        *_refused(ours),
    ]
    left_out = []
    if shutil.which("nginx"):
        found.append(_through_nginx(ours))
    else:
        left_out.append("through nginx: nginx is not installed")
    for stack in (
        peers.python(redis_port, "usual.py", "aiohttp, PyJWT, limits (moving)", "limits"),
        peers.python(
            redis_port, "fastapi_limits.py", "FastAPI, PyJWT, limits (sliding)", "fastapi", "limits", "uvicorn"
        ),
        peers.go(folder, redis_port, users, fresh["HS256"]),
        peers.nginx_lua(folder, redis_port),
        peers.fastify(redis_port),
    ):
        try:
            found.extend(stack)
        except peers.Missing as reason:
            left_out.append(str(reason))
    return found, left_out


def _constants() -> list[Row]:
    python, status = sys.executable, constant(asking("/auth/status"))
    return [
        Row("a constant, without reading HTTP", [python, str(STACKS / "floor.py"), "{port}"], status),
        Row(BASE, [python, str(STACKS / "bare.py"), "{port}"], status),
    ]


def _admitted(ours: "partial[list[str]]", users: Requests) -> list[Row]:
    status = constant(asking("/auth/status"))
    question = {"x_original_method": "GET"}
    paths = [asking("/auth/verify/nginx", x_original_uri=f"/api/part{n % 100}/{n}", **question) for n in range(PATHS)]
    per_address = [{"per": "ip", "requests": 1000, "window": 3600}]
    return [
        Row(OURS, ours(name="status", limits={"status": HUGE}), status, holds=STATUS),
        *(
            Row(
                in_turn("Rollcall", connections),
                ours(name="users", limits={"status": HUGE}),
                users,
                connections=connections,
                warm=TURNS_WARM,
                holds=STATUS,
            )
            for connections in (64, 4, 1)
        ),
        Row(
            "Rollcall, each request with an id of its own",
            ours(name="ids", limits={"status": HUGE}),
            with_own_ids(asking("/auth/status", x_request_id="%032x", traceparent="00-%032x-%016x-01")),
            holds=STATUS,
        ),
        Row(
            "Rollcall, /auth/logout",
            ours(name="logout", limits={"logout": HUGE}),
            constant(asking("/auth/logout")),
            holds=b'"success": true',
        ),
        Row(
            "Rollcall, /auth/verify, 100 routes, 1,000 paths",
            ours(name="verify", limits={"verify": HUGE}, routes=ROUTES, **TRUSTING),
            cycle(paths),
        ),
        Row(
            "Rollcall, /auth/status, access_log: all",
            ours(name="log", limits={"status": HUGE}, access_log="all"),
            status,
            holds=STATUS,
        ),
        Row(
            "Rollcall, admitted, each another user and address",
            ours(name="many", limits={"status": per_address}, **TRUSTING),
            cycle(_people()),
            holds=STATUS,
        ),
        Row(
            "Rollcall, /auth/status, 2 workers",
            ours(name="two", limits={"status": HUGE}, workers=2),
            status,
            workers=2,
            holds=STATUS,
        ),
    ]


def _fresh(ours: "partial[list[str]]", fresh: dict[str, Fresh], keys: list[dict[str, str]]) -> list[Row]:
    """Each request brings a token that the server has not seen."""
    command = ours(name="fresh", limits={"status": HUGE}, keys=keys)
    return [
        Row(fresh_name(alg), command, requests, share=peers.FRESH_SHARE, warm=peers.FRESH_WARM, holds=STATUS)
        for alg, requests in fresh.items()
    ]


def _refused(ours: "partial[list[str]]") -> list[Row]:
    one = [{"per": "ip", "requests": 1, "window": 3600}]
    return [
        Row(
            "Rollcall, refused again and again",
            ours(name="again", limits={"status": one}),
            constant(asking("/auth/status")),
            status=429,
            holds=b'"TOO_MANY_REQUESTS"',
        ),
        Row(
            "Rollcall, refused, each for the first time",
            ours(name="first", limits={"status": one}, access_log="none", **TRUSTING),
            cycle(_people()),
            status=429,
            first=True,
            holds=b'"TOO_MANY_REQUESTS"',
        ),
    ]


def _people() -> list[bytes]:
    """Requests, each of another user at another address."""
    spelt = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(ADDRESSES))
    return [asking("/auth/status", f"user-{one}", x_forwarded_for=one) for one in spelt]


def _through_nginx(ours: "partial[list[str]]") -> Row:
    """The load goes to nginx, which asks about each request; the CPU is Rollcall's alone."""

    @contextmanager
    def front(port: int) -> Iterator[int]:
        with (
            TemporaryDirectory(prefix="rc-", dir="/tmp") as scratch,
            gate.upstream() as behind,
            gate.nginx(Path(scratch), gate.GATES[1], port, behind) as own,
        ):
            yield own

    command = ours(name="through", limits={"verify": HUGE}, routes=ROUTES, **TRUSTING)
    requests = constant(asking("/api/things/7"))
    return Row("Rollcall, through nginx's auth_request", command, requests, front=front, holds=b'{"ok": true}')
