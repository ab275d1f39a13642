"""The commands of the documentation are run as they are written, against the shipped configuration."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestClient

from tests.docs.pages import blocks, plain, run, session
from tests.kit import ROOT, Service, credentials, free_port, needs, sign

pytestmark = pytest.mark.slow
DOCS = ROOT / "docs"


@pytest.fixture
def shipped(start: Callable[..., Service]) -> Service:
    """A service with the shipped configuration, on a port of its own."""
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    return start({**content, "server": {}}).wait_until_ready()


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "getting-started.md"], ids=lambda page: page.name)
def test_a_page_s_commands_print_what_it_shows(page: Path, shipped: Service) -> None:
    commands, shown = session(page)
    assert plain(run(commands, shipped)) == plain(shown)


def test_the_commands_for_operators_all_succeed(shipped: Service) -> None:
    commands, _ = session(DOCS / "how-to" / "manage-users.md")
    answers = [json.loads(line) for line in run(commands, shipped).splitlines() if line]
    assert len(answers) == 14
    assert all("data" in answer for answer in answers), "no command ends in an error"
    listed = next(answer["data"]["sessions"] for answer in answers if "sessions" in answer["data"])
    assert [one["userId"] for one in listed] == ["bob", "alice"]
    results = next(answer["data"]["results"] for answer in answers if "results" in answer["data"])
    assert [one["done"] for one in results] == [True, True]


def test_the_command_that_follows_events_shows_them_and_ends(shipped: Service) -> None:
    commands, _ = session(DOCS / "how-to" / "follow-events.md")
    assert "timeout 5 " in commands, "the stream itself never ends"
    assert "event: ready" in run(commands.replace("timeout 5 ", "timeout 1 "), shipped)


PORTS = ("8080", "8000", "9000")


def test_the_commands_of_the_readme_put_nginx_in_front_of_an_api(tmp_path: Path) -> None:
    """They run in a copy of the examples on other ports, since 8080 may be in use here."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    needs("nginx and curl", found=bool(shutil.which("nginx", path=path) and shutil.which("curl")))
    text = (ROOT / "README.md").read_text().partition("Start from the example for your proxy.")[2]
    commands = "\n".join(re.findall(r"^    (.+)$", text, re.M))
    assert "rollcall.yaml" in commands
    own = {port: str(free_port()) for port in PORTS}
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for file in (file for file in (tmp_path / "examples").rglob("*.*") if file.is_file() and file.suffix != ".pyc"):
        file.write_text(moved(file.read_text(), own).replace("/tmp/rollcall-example", f"{tmp_path}/nginx"))
    token = sign("alice", secret="demo-signing-secret-for-trying-out-only", kid="demo", tenant="demo")
    programs = {"rollcall": f"{sys.executable} -m service", "python": sys.executable}
    commands = re.sub(r"\.venv/bin/(rollcall|python)", lambda found: programs[found[1]], moved(commands, own))
    process = subprocess.Popen(
        ["bash", "-ec", f"TOKEN={token}\n{commands}\nkill $(jobs -p)\nwait"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=90)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    assert printed.startswith("HTTP/1.1 200 OK"), errors
    assert '"x-auth-user": "alice"' in printed


def moved(text: str, ports: dict[str, str]) -> str:
    """`text` with other ports."""
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[1]], text)


@pytest.fixture
def guided(tmp_path: Path) -> web.Application:
    """The application that the guide on the middleware shows, with the shipped configuration."""
    config = tmp_path / "config.yaml"
    config.write_text((ROOT / "config.yaml").read_text())
    [shown] = blocks(DOCS / "how-to" / "aiohttp-middleware.md", "python")
    made: dict[str, Any] = {}
    exec(shown.replace('"config.yaml"', repr(str(config))), made)
    app: web.Application = made["app"]
    return app


async def test_the_application_of_the_middleware_s_guide_answers_as_the_guide_says(
    guided: web.Application, aiohttp_client: Callable[..., Awaitable[TestClient[Any, Any]]]
) -> None:
    client = await aiohttp_client(guided)
    secret = "demo-signing-secret-for-trying-out-only"
    who = credentials("alice", tenant_token="demo-tenant-token", secret=secret, kid="demo")
    admitted = await client.post("/payments", headers=who)
    assert (admitted.status, await admitted.json()) == (200, {"paid_by": "alice"})
    assert (await client.post("/payments")).status == 401
