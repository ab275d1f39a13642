#!/usr/bin/env bash
# requests 2.34.2 (urllib3 2.8.0) and httplib2 0.32.1, the client of Google's own libraries, take a `103 Early Hints` for
# the answer: status 103, which `raise_for_status` lets pass, and an empty body. The answer that follows is never seen.
# A proxy that passes an API's hints on, as nginx does from 1.29 with `early_hints`, breaks them. They build on
# http.client, which skips a 100 alone.
# Guessed before: 200. RFC 9110, section 15.2: a client MUST be able to parse one or more 1xx responses before the final
# one, even if it does not expect one. httpx 0.28.1 and aiohttp 3.14.5 can; websockets 17.4 takes a 103 ahead of the 101
# for a refused handshake.
source "$(dirname "$0")/common.bash"
python_packages httplib2==0.32.1 requests==2.34.2 urllib3==2.8.0 httpx==0.28.1 aiohttp==3.14.5 websockets==17.4
cat >run.py <<'PY'
import asyncio
import socket
import threading

import aiohttp
import httplib2
import httpx
import requests
import websockets

listening = socket.create_server(("127.0.0.1", 0))


def serve():
    while True:
        connection, _ = listening.accept()
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        connection.close()


threading.Thread(target=serve, daemon=True).start()
url = f"http://127.0.0.1:{listening.getsockname()[1]}/"


async def by_aiohttp():
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.read()


async def by_websockets():
    try:
        await websockets.connect(url.replace("http:", "ws:"), open_timeout=30)
    except websockets.InvalidStatus as error:
        return error.response.status_code


answer, body = httplib2.Http(timeout=30).request(url)
print("httplib2:", answer.status, body)
answer = requests.get(url, timeout=30)
answer.raise_for_status()
print("requests:", answer.status_code, answer.content)
answer = httpx.get(url, timeout=30)
print("httpx:", answer.status_code, answer.content)
print("aiohttp:", *asyncio.run(by_aiohttp()))
print("websockets:", asyncio.run(by_websockets()))
PY
timeout 60 $python run.py | expect "httplib2: 103 b''
requests: 103 b''
httpx: 200 b'ok'
aiohttp: 200 b'ok'
websockets: 103"
