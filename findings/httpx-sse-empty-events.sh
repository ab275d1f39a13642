#!/usr/bin/env bash
# httpx-sse 0.4.3 yields an event of type "message" with empty data for a block that has a `retry` or an `id` alone.
# Whoever calls .json() on each event fails on a server that sets the time to come back before its first event.
# Expected: such a block is no event (HTML standard, section 9.2.6: empty data is not dispatched). A block of
# comments alone, such as a ping, is none here either.
source "$(dirname "$0")/common.bash"
python_packages httpx==0.28.1 httpx-sse==0.4.3
cat >run.py <<'PY'
import httpx
from httpx_sse import EventSource

stream = b": a comment\n\nretry: 1000\n\nid: 5\n\nevent: tick\ndata: {}\n\n"
transport = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream))
with httpx.Client(transport=transport) as client:
    for event in EventSource(client.get("http://example.org/")).iter_sse():
        print(f"{event.event} data={event.data!r} id={event.id!r} retry={event.retry}")
PY
$python run.py | expect "message data='' id='' retry=1000
message data='' id='5' retry=None
tick data='{}' id='5' retry=None"
