#!/usr/bin/env bash
# npm's @microsoft/fetch-event-source 2.0.1 calls `onmessage` with empty data at each empty line, also behind a comment
# alone. A server's ping is a message then, JSON.parse of it throws, and an error in `onmessage` ends the connection and
# makes another, at each ping.
# Guessed before: a comment is nothing (HTML standard, section 9.2.6, whose own advice is to send one every 15 seconds).
# So it is without the empty line.
source "$(dirname "$0")/common.bash"
npm_packages @microsoft/fetch-event-source@2.0.1
cat >run.js <<'JS'
import http from "node:http";

Object.assign(globalThis, { window: globalThis, document: { hidden: false, addEventListener() {}, removeEventListener() {} } });
const { fetchEventSource } = await import("@microsoft/fetch-event-source");
for (const [name, ping] of [["with an empty line", ": ping\n\n"], ["without", ": ping\n"]]) {
  let connections = 0;
  const server = http.createServer((request, response) => {
    connections += 1;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(ping + (connections > 2 || name === "without" ? 'data: {"last": true}\n\n' : ""));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const errors = [];
  await new Promise((done) => {
    fetchEventSource(`http://127.0.0.1:${server.address().port}/`, {
      onmessage: ({ data }) => { if (connections > 2 || name === "without") return done(); JSON.parse(data); },
      onerror: (error) => { errors.push(error.name); return 10; },
    });
  });
  console.log(`a ping ${name}: ${connections} connection(s), errors: ${errors.join(", ") || "none"}`);
}
process.exit(0);
JS
timeout 60 node run.js | expect 'a ping with an empty line: 3 connection(s), errors: SyntaxError, SyntaxError
a ping without: 1 connection(s), errors: none'
