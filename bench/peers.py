"""What one would use instead: stacks of other languages, each where its programs are on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.servers import SECRET, STACKS, TURNS_WARM, Requests, Row, asking, constant, in_turn

GOCODE = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""
NGINX_MODULES = Path("/usr/lib/nginx/modules")
LUA = Path("/usr/share/lua/5.1")
FRESH_SHARE, FRESH_WARM = 0.5, 2000
"""Fewer requests with fresh tokens than others: each token is signed beforehand, and verifying them takes longer."""
SAYS = b'"logged_in"'


GO = "Go, golang-jwt with cache, redigo"


class Missing(Exception):
    """A row that cannot be measured here, and why."""


def python(redis_port: int, file: str, name: str, *packages: str) -> Iterator[Row]:
    """A stack of Python's, where its packages are installed (the `bench` extra)."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise Missing(f"{name}: {', '.join(missing)} not installed")
    command = [sys.executable, str(STACKS / file), "{port}", f"redis://127.0.0.1:{redis_port}", SECRET]
    # A tenth of bare aiohttp's rate: fewer requests say as much.
    yield Row(name, command, constant(asking("/auth/status")), share=0.4, warm=2000, holds=SAYS)


def fastify(redis_port: int) -> Iterator[Row]:
    """Fastify's stack, where npm is there; its packages are installed once."""
    npm, node, folder = shutil.which("npm"), shutil.which("node"), STACKS / "fastify"
    if npm is None or node is None:
        raise Missing("Fastify: npm is not installed")
    if not (folder / "node_modules").exists():
        quiet = ["install", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run([npm, *quiet], cwd=folder, check=False).returncode != 0:
            raise Missing("Fastify: npm could not install its packages")
    command = [node, str(folder / "server.mjs"), "{port}", f"redis://127.0.0.1:{redis_port}", SECRET]
    yield Row("Fastify, jwt with cache, rate-limit", command, constant(asking("/auth/status")), holds=SAYS)


def go(folder: Path, redis_port: int, users: Requests, fresh: Requests) -> Iterator[Row]:
    """net/http, golang-jwt and redigo, as Debian packages them."""
    compiler = shutil.which("go")
    packages = {
        "golang-jwt/jwt": "golang-github-golang-jwt-jwt-dev",
        "gomodule/redigo": "golang-github-gomodule-redigo-dev",
    }
    missing = [] if compiler else ["golang-go"]
    missing += [package for path, package in packages.items() if not (GOCODE / "src/github.com" / path).is_dir()]
    if compiler is None or missing:
        raise Missing(f"Go: {', '.join(missing)} not installed")
    binary = folder / "go-status"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": ""}
    build = [compiler, "build", "-o", str(binary), str(STACKS / "go" / "main.go")]
    built = subprocess.run(build, env=environment, check=False, capture_output=True, text=True)
    if built.returncode:
        raise Missing(f"Go: {built.stderr.strip()}")
    command = [str(binary), "{port}", f"127.0.0.1:{redis_port}", SECRET]
    one = {"GOMAXPROCS": "1"}  # it is pinned to a core after it has counted them

    def row(name: str, requests: Requests, connections: int = 64, **more: Any) -> Row:
        return Row(name, command, requests, connections=connections, environment=one, holds=SAYS, **more)

    yield row(GO, constant(asking("/auth/status")))
    for connections in (64, 4, 1):
        yield row(in_turn(GO, connections), users, connections, warm=TURNS_WARM)
    yield row(f"{GO}, fresh HS256 tokens", fresh, share=FRESH_SHARE, warm=FRESH_WARM)


def nginx_lua(folder: Path, redis_port: int) -> Iterator[Row]:
    """Nginx with its Lua module, as Debian packages it."""
    needed = {
        NGINX_MODULES / "ngx_http_lua_module.so": "libnginx-mod-http-lua",
        LUA / "resty" / "core.lua": "lua-resty-core",
        LUA / "resty" / "lrucache.lua": "lua-resty-lrucache",
        LUA / "cjson": "lua-cjson",
    }
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    missing = [package for path, package in needed.items() if not path.exists()]
    if nginx is None or missing:
        raise Missing(f"nginx with Lua: {', '.join(missing or ['nginx'])} not installed")
    stack, own = STACKS / "nginx_lua", folder / "nginx_lua"
    own.mkdir()
    filled = {"FOLDER": str(own), "STACK": str(stack), "REDIS_PORT": str(redis_port), "SECRET": SECRET}
    text = (stack / "nginx.conf").read_text()
    for word, value in filled.items():
        text = text.replace(f"@{word}@", value)
    (own / "nginx.conf").write_text(text)
    # The port is known when the row starts: it is filled in then.
    write = 'sed "s/@PORT@/$1/" "$2/nginx.conf" > "$2/own.conf" && exec "$3" -p "$2" -c own.conf -g "$4"'
    command = ["sh", "-c", write, "sh", "{port}", str(own), nginx, "daemon off; master_process off;"]
    yield Row("nginx, Lua with cached tokens, pipeline", command, constant(asking("/auth/status")), holds=SAYS)
