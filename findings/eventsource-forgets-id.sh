#!/usr/bin/env bash
# npm's eventsource-client 1.2.0 and launchdarkly-eventsource 2.2.0 do not keep the id of a block without data: they
# reconnect with the one before. A server that moves its clients on by `id: 8` alone, past events that a client did not
# ask for, sends those again after each reconnect. eventsource 4.1.1 did so too, until 5.1.5.
# Expected: Last-Event-ID is 8. The HTML standard, section 9.2.6, sets the last event ID first, and only then
# looks whether there is data.
source "$(dirname "$0")/common.bash"
npm_packages eventsource-client@1.2.0 launchdarkly-eventsource@2.2.0 eventsource@5.1.5
cat >run.js <<'JS'
import http from "node:http";
import { EventSource } from "eventsource";
import { EventSource as LaunchDarkly } from "launchdarkly-eventsource";
import { createEventSource } from "eventsource-client";

const clients = {
  "eventsource-client": (url) => createEventSource({ url, onMessage: () => {} }),
  "launchdarkly-eventsource": (url) => { new LaunchDarkly(url).onerror = () => {}; },
  eventsource: (url) => new EventSource(url),
};
for (const [name, listen] of Object.entries(clients)) {
  let requests = 0;
  const reconnected = new Promise((done) => {
    const server = http.createServer((request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      requests += 1;
      if (requests > 1) return done(request.headers["last-event-id"]);
      response.end("retry: 100\n\nid: 7\nevent: tick\ndata: one\n\nid: 8\n\n");
    });
    server.listen(0, "127.0.0.1", () => listen(`http://127.0.0.1:${server.address().port}/`));
  });
  console.log(name, "comes back with", await reconnected);
}
process.exit(0);
JS
timeout 60 node run.js | expect 'eventsource-client comes back with 7
launchdarkly-eventsource comes back with 7
eventsource comes back with 8'
