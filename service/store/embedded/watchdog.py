"""A watchdog that keeps one child process running while its standard input stays open.

`server.py` starts it as a program of its own, and the service holds the other end of the pipe. However the service
ends, kill -9 included, the pipe closes, and the watchdog ends the child (SHUTDOWN over its socket, and after a while
SIGKILL). It starts a child that dies by itself again; if children keep dying, the watchdog ends.

Process managers send their signal to the service and all its children at once (pm2, systemd unless `KillMode=mixed`).
The watchdog and its child disregard such signals: the service needs Redis until it has answered its last request.

Before each start the watchdog puts the data that `rollcall restore` has prepared in place.

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
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STDERR = 2
GRACE_S = 20.0
"""Seconds that a child may take to save its data."""
UNREACHABLE_S = 3.0
"""Seconds after which a child whose socket refuses connections is killed: somebody removed the socket's file."""
QUICK_S = 2.0
QUICK_DEATHS = 3
"""After so many children in a row that lived shorter than QUICK_S, the watchdog gives up."""
BLOCKED = (signal.SIGINT, signal.SIGTERM)
"""Signals for which the child has a handler of its own: it inherits that they are blocked, and keeps that."""
IGNORED = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
"""The others that process managers, terminals and log rotation send. The child inherits that they are ignored; where
it handles one all the same (SIGUSR1 ends a rewrite of its own), it must receive it."""
DATA = ("appendonlydir", "appendonly.aof")
"""The data in a folder: a folder since Redis 7.0, a file before."""
RESTORED = "restored"
"""A folder that a restore has prepared, to take the place of the data."""
BEFORE_RESTORE = "before-restore"
"""A folder with the data that the last restore has replaced."""


def main(lock_fd: int, remove: str, command: list[str]) -> int:
    """Keep `command` running until standard input closes; the exit code is the child's last one."""
    for one in IGNORED:
        signal.signal(one, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)  # the service blocks them until here
    quick_deaths = 0
    while True:
        started = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[lock_fd])  # noqa: S603  # from the service
        if _ends_first(child):
            _end(child, command[command.index("--unixsocket") + 1])
            break
        if _put_in_place():
            quick_deaths = 0
            continue
        if time.monotonic() - started >= QUICK_S:
            quick_deaths = 0
        elif child.returncode >= 0:  # it ended by itself; a child that was killed is always started again
            quick_deaths += 1
        if quick_deaths >= QUICK_DEATHS:
            break
        _log("error", f"the embedded redis ended (exit code {child.returncode}) and is started again")
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    return child.returncode


def put_restored_in_place(folder: Path) -> bool:
    """Replace the data in `folder` by those that a restore has prepared, if it has; return whether it has.

    The data before are moved to BEFORE_RESTORE. No server may run on the folder. What a crash interrupts, the next
    call completes.

    Raises:
        OSError: the data cannot be moved.
    """
    if not (folder / RESTORED).is_dir():
        return False
    kept, present = folder / BEFORE_RESTORE, [name for name in DATA if (folder / name).exists()]
    if present:
        kept.mkdir(mode=0o700, exist_ok=True)
    for name in present:
        (folder / name).rename(kept / name)
    (folder / RESTORED).rename(folder / DATA[0])
    return True


def _put_in_place() -> bool:
    try:
        if put_restored_in_place(Path()):
            _log("warning", f"the embedded data is replaced by a backup; what it replaces is in {BEFORE_RESTORE}")
            return True
    except OSError as error:
        _log("error", f"the restored data cannot be put in place: {error}")
    return False


def _log(level: str, event: str) -> None:
    """Write a line to the service's log. If nothing reads it, or the disk is full, the line is lost."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"event": event, "level": level, "timestamp": at}) + "\n"
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


def _end(child: "subprocess.Popen[bytes]", path: str) -> None:
    """End the child: ask it, until it ends or is late; then kill it."""
    began = reached = time.monotonic()
    while child.poll() is None:
        now = time.monotonic()
        if now - began > GRACE_S or now - reached > UNREACHABLE_S:
            child.kill()
            child.wait()
        elif _ask_to_end(path):
            reached = now
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.1)


def _ask_to_end(path: str) -> bool:
    """Send SHUTDOWN, and wait a moment for the end; return whether the server took the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except OSError:
            return False
        with suppress(OSError):
            client.sendall(b"SHUTDOWN\r\n")
            client.recv(64)
    return True


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
