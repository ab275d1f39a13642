#!/usr/bin/env bash
# npm's @microsoft/fetch-event-source 2.0.1 and extended-eventsource 2.1.0 (its fork, "follows the WHATWG specification")
# move their position on as soon as they read the line `id`. If the connection ends within the event, they drop it, and
# come back with its id: the server goes on after an event that nobody has seen. A server that writes `id` as the last
# line of an event is not affected.
# Guessed before: they come back with 7, as eventsource 5.1.5 does. HTML standard, section 9.2.6: the last event ID
# string is set when the event is dispatched, and what the end of the stream cuts off is discarded.
source "$(dirname "$0")/common.bash"
npm_packages @microsoft/fetch-event-source@2.0.1 extended-eventsource@2.1.0 eventsource@5.1.5
cat >run.js <<'JS'
import http from "node:http";
import { EventSource as Extended } from "extended-eventsource";
import { EventSource } from "eventsource";

Object.assign(globalThis, { window: globalThis, document: { hidden: false, addEventListener() {}, removeEventListener() {} } });
const { fetchEventSource } = await import("@microsoft/fetch-event-source");
const clients = {
  "fetch-event-source": (url, heard) => fetchEventSource(url, { onmessage: ({ data }) => data && heard(data), onclose: () => { throw new Error("ended"); }, onerror: () => 100 }),
  "extended-eventsource": (url, heard) => { new Extended(url, { disableLogger: true }).onmessage = ({ data }) => data && heard(data); },
  eventsource: (url, heard) => { new EventSource(url).onmessage = ({ data }) => heard(data); },
};
const events = { 7: "seven", 8: "eight", 9: "nine" };
for (const [name, listen] of Object.entries(clients)) {
  const places = [], seen = [];
  await new Promise((done) => {
    const server = http.createServer((request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      places.push(request.headers["last-event-id"]);
      if (places.length === 1) return response.end("retry: 100\nid: 7\ndata: seven\n\nid: 8\ndata: ei"); // a proxy closes here
      for (const [id, data] of Object.entries(events)) if (id > Number(places[1])) response.write(`id: ${id}\ndata: ${data}\n\n`);
    });
    server.listen(0, "127.0.0.1", () => listen(`http://127.0.0.1:${server.address().port}/`, (data) => seen.push(data) && data === "nine" && done()));
  });
  console.log(`${name}: comes back with ${places[1]}, and sees ${seen.join(", ")}`);
}
process.exit(0);
JS
timeout 60 node run.js | expect 'fetch-event-source: comes back with 8, and sees seven, nine
extended-eventsource: comes back with 8, and sees seven, nine
eventsource: comes back with 7, and sees seven, eight, nine'
