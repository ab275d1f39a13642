"""Ports for servers that a test starts.

A server binds its port seconds after a test chose it. So a port is reserved until its process has chosen many others,
by a lock that every worker of pytest-xdist respects; and it is below the range from which the kernel takes the ports of
outgoing connections (32,768 on Linux), of which some tests open ten thousand.
"""

import fcntl
import os
import socket
import tempfile
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from random import SystemRandom

FIRST, LAST = 10_000, 29_999
CLUSTER_BUS = 10_000
"""So far above its port a node of a Cluster listens for the other nodes."""
KEPT = 100
"""How many ports a process keeps reserved: by then the server of the oldest listens, or is gone."""

_random = SystemRandom()  # the one of `random` is seeded by hypothesis, in each worker alike
_reserved: deque[ExitStack] = deque()


def free_port(*offsets: int) -> int:
    """Return a port on which nothing listens, and which no other test is given for a while.

    Args:
        offsets: the ports that are so far above it are free and reserved, too.
    """
    while True:
        port = _random.randrange(FIRST, LAST + 1 - max(offsets, default=0))
        with suppress(OSError), ExitStack() as stack:
            for one in (port, *(port + offset for offset in offsets)):
                _reserve(one, stack)
            _reserved.append(stack.pop_all())
            if len(_reserved) > KEPT:
                _reserved.popleft().close()
            return port


def _reserve(port: int, stack: ExitStack) -> None:
    """Reserve a port until the stack ends. Raises OSError where another process has it."""
    folder = Path(tempfile.gettempdir()) / f"rollcall-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock = stack.enter_context((folder / str(port)).open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
