"""Linters and generators of clients take the description, and what they make compiles and logs out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service import __version__
from service.web.openapi.description import document
from tests.kit import OPERATOR_TOKEN, ROOT, TENANT_TOKEN, Service, config, sign, tenant

FOLDER = Path(__file__).parent
GENERATED = FOLDER / "generated"
PROGRAMS = ROOT / ".venv" / "clients" / "bin"
DONE = {"status": 200, "success": True, "now": "logged_out"}


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=FOLDER, text=True, capture_output=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def description() -> Iterator[str]:
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir()
    path = GENERATED / "openapi.json"
    path.write_text(json.dumps(document(__version__)))
    yield str(path)
    shutil.rmtree(GENERATED)


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    hook = {"name": "audit", "url": "http://127.0.0.1:9/", "secret": "whsec_" + "MDEy" * 11}
    limits: dict[str, Sequence[Any]] = {name: [] for name in ("logout", "status", "terminate", "admin", "login")}
    acme = tenant(webhooks=[hook], routes=[{"path": "/*"}])
    server = {"trusted_proxies": ["127.0.0.1"], "access_log": "none"}
    return start(config(server=server, limits=limits, redis={"timeout": 5}, tenants={"acme": acme})).wait_until_ready()


@pytest.fixture(scope="module")
def compiled(description: str) -> None:
    """What the generators for TypeScript make, and the scripts that use it, compile without an error."""
    run("npx", "openapi-typescript", description, "-o", "generated/schema.d.ts")
    run("npx", "openapi-ts", "-i", description, "-o", "generated/hey")
    run("npx", "tsc", "-p", ".")


def test_redocly_finds_nothing(description: str) -> None:
    run("npx", "redocly", "lint", description, "--max-problems", "0")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("script", ["logout_openapi_typescript", "logout_hey_api"])
def test_a_generated_client_for_typescript_compiles_and_logs_out(service: Service, script: str) -> None:
    url = f"http://127.0.0.1:{service.port}"
    assert json.loads(run("node", f"generated/js/{script}.js", url, TENANT_TOKEN, sign())) == DONE


def test_the_client_of_openapi_python_client_compiles_and_logs_out(description: str, service: Service) -> None:
    made = GENERATED / "python"
    how = ("generate", "--path", description, "--meta", "none", "--output-path", str(made))
    run(str(PROGRAMS / "openapi-python-client"), *how)
    run(sys.executable, "-m", "compileall", "-q", str(made))
    url = f"http://127.0.0.1:{service.port}"
    python = str(PROGRAMS / "python")
    assert json.loads(run(python, "logout.py", url, TENANT_TOKEN, sign(), PYTHONPATH=str(FOLDER))) == DONE


def test_schemathesis_finds_no_failure(service: Service) -> None:
    run(
        *(str(PROGRAMS / "schemathesis"), "--config-file", "schemathesis.toml", "run"),
        *(f"http://127.0.0.1:{service.port}/openapi.json", "--seed", "1", "--max-examples", "8"),
        *("--exclude-path", "/admin/v1/events", "--request-timeout", "10"),
        *("-H", f"x-tenant-token: {TENANT_TOKEN}", "-H", f"x-token: {sign()}"),
        OPERATOR_TOKEN=OPERATOR_TOKEN,
    )
