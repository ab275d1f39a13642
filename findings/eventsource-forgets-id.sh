#!/usr/bin/env bash
# npm's eventsource 4.1.1 and eventsource-client 1.2.0 (both on eventsource-parser) do not keep the id of a block
# without data: they reconnect with the one before. A server that moves its clients on by `id: 8` alone, past events
# that a client did not ask for, sends those again after each reconnect.
# Expected: Last-Event-ID is 8. The HTML standard, section 9.2.6, sets the last event ID first, and only then
# looks whether there is data.
source "$(dirname "$0")/common.bash"
npm_packages eventsource@4.1.1 eventsource-client@1.2.0 eventsource-parser@3.1.1
cat >run.js <<'JS'
import http from "node:http";
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";

for (const name of ["eventsource", "eventsource-client"]) {
  let requests = 0;
  const reconnected = new Promise((done) => {
    const server = http.createServer((request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      requests += 1;
      if (requests > 1) return done(request.headers["last-event-id"]);
      response.end("retry: 100\n\nid: 7\nevent: tick\ndata: one\n\nid: 8\n\n");
    });
    server.listen(0, "127.0.0.1", () => {
      const url = `http://127.0.0.1:${server.address().port}/`;
      if (name === "eventsource") new EventSource(url);
      else createEventSource({ url, onMessage: () => {} });
    });
  });
  console.log(name, "comes back with", await reconnected);
}
process.exit(0);
JS
timeout 30 node run.js | expect 'eventsource comes back with 7
eventsource-client comes back with 7'
