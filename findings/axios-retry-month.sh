#!/usr/bin/env bash
# axios-retry 4.5.0 repeats a request at once, three times, if `Retry-After` is longer than 24.8 days. A timer of
# JavaScript has 31 bits of milliseconds; what is longer counts as 1 ms. The quota of a month that says "come back in
# 30 days" is asked four times within a second, where one of 20 days is waited for.
# Guessed before: it waits, however long that is, or gives up, as got 16 does; its delay is documented as what
# `Retry-After` says.
source "$(dirname "$0")/common.bash"
npm_packages axios@1.21.1 axios-retry@4.5.0
cat >run.js <<'JS'
import http from "node:http";
import { setTimeout } from "node:timers/promises";
import axios from "axios";
import axiosRetry from "axios-retry";

for (const days of [20, 30]) {
  let requests = 0;
  const server = http.createServer((_, response) => {
    requests += 1;
    response.writeHead(429, { "retry-after": String(days * 86400) }).end("{}");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const client = axios.create();
  axiosRetry(client);
  const ended = client.get(`http://127.0.0.1:${server.address().port}`).catch((error) => `gives up with ${error.response.status}`);
  const after = await Promise.race([ended, setTimeout(3000).then(() => "waits")]);
  console.log(`${days} days: ${requests} request(s), ${after}`);
}
process.exit(0);
JS
timeout 60 node run.js 2>/dev/null | expect '20 days: 1 request(s), waits
30 days: 4 request(s), gives up with 429'
