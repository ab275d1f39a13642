"""The commands of the examples print what their comments say, and the advice for the API behind a proxy works."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import run, session
from tests.kit import ROOT, credentials
from tests.proxies.deployment import deployed
from tests.proxies.versions import NGINX

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
SECRET = "demo-signing-secret-for-trying-out-only"


def test_the_commands_of_the_examples_are_answered_as_their_comments_say(tmp_path: Path) -> None:
    commands, _ = session(ROOT / "examples" / "README.md")
    with deployed(NGINX, tmp_path) as running:
        printed = run(commands.replace(":8000", f":{running.port}"), running.service)
        statuses = re.findall(r"HTTP/1\.1 (\d+)", printed)
        reached = [(one["target"], one["headers"].get("x-auth-status")) for one in running.upstream.seen]
    assert statuses == ["200", "401", "200", "200", "200", "200", *["200"] * 20, "429"]
    assert reached[:4] == [
        ("/api/things", "logged_in"),
        ("/public/logo.svg", None),
        ("/api/things", "logged_out"),
        ("/api/things", "logged_in"),
    ]
    assert len(reached) == 4 + 20
    assert "\nretry-after: " in printed.lower()


def test_the_line_for_nginx_that_keeps_the_tenants_token_from_the_api_does_so(tmp_path: Path) -> None:
    line = 'proxy_set_header X-Tenant-Token "";'
    assert f"`{line}`" in (ROOT / "docs" / "how-to" / "use-the-identity.md").read_text()

    def edit(text: str) -> str:
        return text.replace(
            "proxy_set_header X-Request-Id   $auth_id;", f"proxy_set_header X-Request-Id $auth_id; {line}"
        )

    who = credentials("alice", tenant_token="demo-tenant-token", secret=SECRET, kid="demo")
    with deployed(NGINX, tmp_path, edit=edit) as running:
        assert running.ask("GET", "/api/things", who).status == 200
        [received] = running.upstream.seen
    assert "x-tenant-token" not in received["headers"]
    assert received["headers"]["x-token"] == who["x-token"]
    assert received["headers"]["x-auth-tenant"] == "demo"
