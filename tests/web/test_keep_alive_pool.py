"""A proxy's pool of connections carries questions and pages; the questions take the hot path all the same."""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.app import make_app
from service.store.connection.client import RedisAccess
from service.web.server.http_server import HttpServer
from tests.kit import credentials, free_port, needs, serving, settings
from tests.web.connections import Connection, asking

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)

SECONDS, A_SECOND, CLIENTS = 3, 500, 20
CONF = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off; keepalive_requests 100000; proxy_http_version 1.1; proxy_set_header Connection "";
    client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
    upstream rollcall { server 127.0.0.1:SERVICE; keepalive 32; }
    server {
        listen 127.0.0.1:PORT;
        location / { auth_request /_rollcall; root api; }
        location /dashboard { proxy_pass http://rollcall; }
        location = /_rollcall {
            internal;
            proxy_pass http://rollcall/auth/verify/nginx;
            proxy_method HEAD;  # as in the example: otherwise nginx closes the connection, a body unread
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URI $request_uri;
        }
    }
}
"""


@contextmanager
def nginx(service: int) -> Iterator[int]:
    """An nginx that asks the service about each request for a file, on one pool with the dashboard; its port."""
    binary = shutil.which("nginx")
    needs("nginx", found=binary is not None)
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        (folder / "api").mkdir()
        (folder / "api" / "thing").write_text("the API")
        (folder / "nginx.conf").write_text(CONF.replace("SERVICE", str(service)).replace("PORT", str(port)))
        process = subprocess.Popen([str(binary), "-p", name, "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
async def served(access: RedisAccess) -> AsyncIterator[tuple[HttpServer, int]]:
    app = await asyncio.to_thread(
        make_app,
        settings(server={"trusted_proxies": ["127.0.0.1"]}, routes=[{"path": "/*"}], limits={"verify": []}),
        access,
    )
    async with serving(app) as (server, port):
        yield server, port


async def connected(port: int) -> Connection:
    for _ in range(500):
        try:
            return Connection(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            await asyncio.sleep(0.02)
    raise AssertionError("nginx does not listen")


async def counted(port: int) -> dict[str, int]:
    """Requests by the path that they take, as `/metrics` reports them."""
    one = await connected(port)
    text = (await one.ask(asking("/metrics", {}))).decode()
    one.writer.close()
    found = re.findall(r'rollcall_http_requests_total\{path="(\w+)"\} (\d+)', text)
    return {"hot": 0, "aiohttp": 0} | {path: int(number) for path, number in found}


async def test_questions_that_share_a_pool_with_the_dashboard_take_the_hot_path(
    served: tuple[HttpServer, int],
) -> None:
    _, service = served
    with nginx(service) as port:
        clients = [await connected(port) for _ in range(CLIENTS)]
        operator = await connected(port)
        before = await counted(service)
        for second in range(SECONDS):
            assert (await operator.ask(asking("/dashboard/login", {})))[9:12] in (b"200", b"303", b"403", b"404")
            for tick in range(A_SECOND // CLIENTS):
                users = [asking("/thing", credentials(f"user-{second * tick + n}")) for n in range(CLIENTS)]
                answers = await asyncio.gather(
                    *(one.ask(request) for one, request in zip(clients, users, strict=True)),
                    asyncio.sleep(CLIENTS / A_SECOND),
                )
                assert all(answer and b"the API" in answer for answer in answers[:-1])
        after = await counted(service)
        for one in (*clients, operator):
            one.writer.close()
    questions, pages = SECONDS * A_SECOND, SECONDS + 1  # of the readings of the metrics the first is counted
    hot, aiohttp = (after[path] - before[path] for path in ("hot", "aiohttp"))
    assert hot + aiohttp == questions + pages
    assert hot >= 0.99 * questions, f"{aiohttp - pages} questions of {questions} went through aiohttp"
