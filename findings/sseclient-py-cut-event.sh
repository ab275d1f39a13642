#!/usr/bin/env bash
# sseclient-py 1.9.0 hands out an event that the end of the stream cut off, as if it were whole, and forgets an `id`
# that came in an earlier block. A connection that a proxy closes in the middle yields half a message, and the client
# continues after it.
# Expected: the unfinished event is dropped, and the last id stays (HTML standard, section 9.2.6).
source "$(dirname "$0")/common.bash"
python_packages sseclient-py==1.9.0
cat >run.py <<'PY'
from importlib.metadata import version

from sseclient import SSEClient

chunks = [b"id: 5\n\n", b"event: tick\ndata: whole\n\n", b"id: 6\nevent: tick\ndata: the first of two lines\n"]
for event in SSEClient(iter(chunks)).events():
    print(f"{event.event} data={event.data!r} id={event.id!r}")
PY
$python run.py | expect "tick data='whole' id=None
tick data='the first of two lines' id='6'"
