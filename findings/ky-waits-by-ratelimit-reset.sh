#!/usr/bin/env bash
# ky 2.1.0 sleeps by `X-RateLimit-Reset` or the old `RateLimit-Reset` field where a 429 or 503 has no `Retry-After`,
# and not by the structured `RateLimit` field that replaced them. An API that reports the end of its window on each
# answer makes the client wait for that end after an outage that has nothing to do with the limit.
# Guessed before: without Retry-After its own back-off of 0.3 s, as after a 500.
source "$(dirname "$0")/common.bash"
npm_packages ky@2.1.0
cat >run.js <<'JS'
import http from "node:http";
import ky from "ky";

for (const fields of [{}, { "x-ratelimit-reset": "3" }, { "ratelimit-reset": "3" }, { ratelimit: '"a";r=0;t=3' }]) {
  for (const status of [503, 500]) {
    const times = [];
    const server = http.createServer((_, response) => {
      times.push(Date.now());
      response.writeHead(times.length === 1 ? status : 200, times.length === 1 ? fields : {}).end("{}");
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    await ky.get(`http://127.0.0.1:${server.address().port}`, { retry: { limit: 1 } }).json();
    const waited = times[1] - times[0] >= 2900 ? "3 s" : "its own back-off";
    console.log(status, JSON.stringify(fields), "→", waited);
    server.close();
  }
}
process.exit(0);
JS
timeout 60 node run.js | expect '503 {} → its own back-off
500 {} → its own back-off
503 {"x-ratelimit-reset":"3"} → 3 s
500 {"x-ratelimit-reset":"3"} → its own back-off
503 {"ratelimit-reset":"3"} → 3 s
500 {"ratelimit-reset":"3"} → its own back-off
503 {"ratelimit":"\"a\";r=0;t=3"} → its own back-off
500 {"ratelimit":"\"a\";r=0;t=3"} → its own back-off'
