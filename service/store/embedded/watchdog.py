"""A guard that keeps one child process running while its standard input stays open.

`server.py` starts it as a program of its own, and the service holds the other end of the pipe. However the service
ends, kill -9 included, the pipe closes, and the guard ends the child (SIGTERM, and after a while SIGKILL). It starts a
child that dies by itself again; if children keep dying, the guard ends.

    python -I watchdog.py LOCK_FD REMOVE COMMAND [ARG …]

LOCK_FD is an open, locked file that the child inherits: the lock lasts as long as the child. REMOVE is a
folder to remove at the end, or empty. Only the standard library, and nothing of this package: it starts in
milliseconds and holds little memory.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

STDERR = 2
GRACE_S = 20.0
"""Seconds that a child may take to save its data."""
QUICK_S = 2.0
QUICK_DEATHS = 3
"""After so many children in a row that lived shorter than QUICK_S, the guard gives up."""


def main(lock_fd: int, remove: str, command: list[str]) -> int:
    """Keep `command` running until standard input closes; the exit code is the child's last one."""
    for terminal in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(terminal, signal.SIG_IGN)
    quick_deaths = 0
    while True:
        started = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[lock_fd])  # noqa: S603  # from the service
        if _ends_first(child):
            _end(child)
            break
        if time.monotonic() - started >= QUICK_S:
            quick_deaths = 0
        elif child.returncode >= 0:  # it ended by itself; a child that was killed is always started again
            quick_deaths += 1
        if quick_deaths >= QUICK_DEATHS:
            break
        _log(f"the embedded redis ended (exit code {child.returncode}) and is started again")
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    return child.returncode


def _log(event: str) -> None:
    """Write a line to the service's log. If nothing reads it, or the disk is full, the line is lost."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"event": event, "level": "error", "timestamp": at}) + "\n"
    try:
        _, writable, _ = select.select([], [STDERR], [], 0)  # a full pipe would delay the child's restart
        if writable:
            os.write(STDERR, line.encode())
    except (OSError, ValueError):
        return


def _ends_first(child: "subprocess.Popen[bytes]") -> bool:
    """Wait. Returns True when standard input has closed, False if the child ended before."""
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], 0.1)
        if readable and not os.read(sys.stdin.fileno(), 64):
            return True
    return False


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
