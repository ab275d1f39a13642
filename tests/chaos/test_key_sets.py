"""A key set that changes behind a service that runs: SIGHUP fetches it anew, in every worker."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.kit import TENANT_TOKEN, Service, config, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
KEY = ed25519.Ed25519PrivateKey.generate()
HELD = [{**jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k1", "alg": "EdDSA"}]


class Issuer:
    def __init__(self) -> None:
        self.keys: list[Any] = HELD
        issuer = self

        class KeySet(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"keys": issuer.keys}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), KeySet)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("broken", [False, True], ids=["good file", "broken file"])
def test_sighup_fetches_key_sets_anew_and_a_withdrawn_key_verifies_nothing_in_any_worker(
    start: Callable[..., Service], issuer: Issuer, *, workers: int, broken: bool
) -> None:
    tenants = {"acme": {"token": TENANT_TOKEN, "jwt": {"jwks_url": issuer.url}}}
    content = config(server={"workers": workers}, tenants=tenants, admin={"tokens": []})
    service = start(content).wait_until_ready()
    token = jwt.encode({"sub": "alice", "exp": time.time() + 600}, KEY, algorithm="EdDSA", headers={"kid": "k1"})
    who = {"x-tenant-token": TENANT_TOKEN, "x-token": token}

    def statuses() -> set[int]:
        return {service.get("/auth/status", who).status for _ in range(10 * workers)}

    wait_for(lambda: service.log_text.count('"event": "jwks fetched"') == workers)
    assert statuses() == {200}
    issuer.keys = []
    if broken:
        service.configure({**content, "sessions": {"retention": -1}})
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: service.log_text.count('"event": "jwks fetched"') == 2 * workers)
    assert statuses() == {401}
