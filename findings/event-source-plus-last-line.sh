#!/usr/bin/env bash
# npm's event-source-plus 0.1.15 keeps only the last `data` line of an event. A text of three lines arrives as its third,
# pretty-printed JSON as "}". It takes no notice of `retry` either, and comes back within milliseconds at first.
# Guessed before: the lines joined by newlines (HTML standard, section 9.2.6), as eventsource 5.1.5 does.
source "$(dirname "$0")/common.bash"
npm_packages event-source-plus@0.1.15 eventsource@5.1.5
cat >run.js <<'JS'
import http from "node:http";
import { EventSourcePlus } from "event-source-plus";
import { EventSource } from "eventsource";

const clients = {
  "event-source-plus": (url, heard) => new EventSourcePlus(url).listen({ onMessage: ({ data }) => heard(data) }),
  eventsource: (url, heard) => { new EventSource(url).onmessage = ({ data }) => heard(data); },
};
for (const [name, listen] of Object.entries(clients)) {
  const times = [];
  let seen;
  await new Promise((done) => {
    const server = http.createServer((_, response) => {
      times.push(Date.now());
      if (times.length > 1) return done();
      response.writeHead(200, { "content-type": "text/event-stream" }).end("retry: 2000\ndata: {\ndata:   \"a\": 1\ndata: }\n\n");
    });
    server.listen(0, "127.0.0.1", () => listen(`http://127.0.0.1:${server.address().port}/`, (data) => { seen = data; }));
  });
  console.log(`${name}: ${JSON.stringify(seen)}, comes back ${times[1] - times[0] < 1900 ? "before" : "after"} two seconds`);
}
process.exit(0);
JS
timeout 60 node run.js | expect 'event-source-plus: "}", comes back before two seconds
eventsource: "{\n  \"a\": 1\n}", comes back after two seconds'
