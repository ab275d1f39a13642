// Opens a WebSocket over HTTP/2 in clear text (RFC 8441), sends one message, and prints what comes of it as JSON.
// node over_http_2.js ORIGIN TARGET MESSAGE FIELDS-AS-JSON
const http2 = require("node:http2");

const [origin, target, message, fields] = process.argv.slice(2);
const session = http2.connect(origin);

let ended = false;

function end(outcome) {
  if (ended) return;
  ended = true;
  process.stdout.write(JSON.stringify(outcome) + "\n", () => process.exit(0));
}

session.on("error", () => end({ outcome: "no HTTP/2" }));
session.on("close", () => end({ outcome: "no HTTP/2" }));
session.on("remoteSettings", ({ enableConnectProtocol }) => {
  if (!enableConnectProtocol) return end({ outcome: "not offered" });
  const stream = session.request(
    { ":method": "CONNECT", ":protocol": "websocket", ":path": target, ":scheme": "http", ":authority": "api.example",
      "sec-websocket-version": "13", ...JSON.parse(fields) },
    { endStream: false },
  );
  let received = Buffer.alloc(0);
  let status = 0;
  stream.on("error", () => end({ outcome: `${status}, broken` }));
  stream.on("end", () => end({ outcome: String(status) }));
  stream.on("response", (headers) => {
    status = headers[":status"];
    if (status !== 200) return end({ outcome: String(status) });
    // A text frame, masked by zeros (RFC 6455, section 5.2).
    stream.write(Buffer.concat([Buffer.from([0x81, 0x80 | message.length, 0, 0, 0, 0]), Buffer.from(message)]));
  });
  stream.on("data", (part) => {
    received = Buffer.concat([received, part]);
    if (received.length >= 2 && received.length >= 2 + received[1]) {
      end({ outcome: String(status), echo: received.subarray(2, 2 + received[1]).toString() });
    }
  });
});
