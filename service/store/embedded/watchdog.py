"""Keeps one child process for as long as this process's standard input stays open.

Started by `embedded.py` as a program of its own: the service holds the other end of the pipe, so however
the service ends, kill -9 included, the pipe closes, and the child is told to end (SIGTERM, and after a
while SIGKILL). A child that dies by itself is started again; one that keeps dying ends the guard.

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
"""How long a child may take to write its data down."""
QUICK_S = 2.0
QUICK_DEATHS = 3
"""A child that lived shorter than QUICK_S so often in a row is not going to live."""


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
        elif child.returncode >= 0:  # it gave up by itself; who was killed gets another chance, always
            quick_deaths += 1
        if quick_deaths >= QUICK_DEATHS:
            break
        _tell(f"the embedded redis ended (exit code {child.returncode}) and is started again")
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    return child.returncode


def _tell(event: str) -> None:
    """Write a line to the service's log. Where nobody reads it, or the disk is full, the line is lost."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"event": event, "level": "error", "timestamp": at}) + "\n"
    try:
        _, writable, _ = select.select([], [STDERR], [], 0)  # a full pipe would hold up the child's restart
        if writable:
            os.write(STDERR, line.encode())
    except (OSError, ValueError):
        return


def _ends_first(child: "subprocess.Popen[bytes]") -> bool:
    """Wait; True once standard input closed, False where the child ended before."""
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
