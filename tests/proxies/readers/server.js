// Node as a reader of paths: the raw target, the WHATWG URL, url.parse, and what file servers make of these.
const http = require("node:http");
const { posix } = require("node:path");
const url = require("node:url");

const ZONES = [["payments", "/api/payments"], ["public", "/public"], ["static", "/static"], ["api", "/api"]];

function zone(path) {
  const found = ZONES.find(([, root]) => path === root || path.startsWith(root + "/"));
  return found ? found[0] : "other";
}

function attempt(read) {
  try { return [read()]; } catch { return []; }  // what throws answers 400 or 500
}

// RFC 3986, section 6.2.2.2: `%61` and `a` are the same. Who takes the target as it came has to see to that.
const UNRESERVED = /%(2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)/i;

function readings(target) {
  const paths = [
    ...(target.startsWith("/") ? [target.split("?")[0]] : []),  // else it is in absolute form
    ...attempt(() => new URL(target, "http://api.example").pathname),
    ...attempt(() => url.parse(target).pathname || "/"),
  ];
  const decoded = paths.flatMap((path) => attempt(() => decodeURIComponent(path)));
  const again = decoded.flatMap((path) => attempt(() => new URL(path, "http://api.example").pathname));
  const all = UNRESERVED.test(target) ? decoded : [...paths, ...decoded];
  return [...all, ...again, ...all.map((path) => posix.normalize(path))];
}

const server = http.createServer((request, response) => {
  const body = [...new Set(readings(request.url).map(zone))].join(" ");
  response.writeHead(200, { "content-length": body.length }).end(body);
});
server.keepAliveTimeout = 0;
server.listen(Number(process.argv[2]), "127.0.0.1");
