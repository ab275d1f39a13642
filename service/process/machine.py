"""What the service needs of the machine that it starts on, checked before anything else."""

import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = "/dev/shm"  # noqa: S108  # nosec B108  # a private folder is made in it
MIN_DESCRIPTORS = 128
"""What Redis, the event loop, the log and a few clients need."""
MAX_DESCRIPTORS = 1_048_576
"""The most open files that are asked for."""


class UnfitMachine(Exception):
    """The machine, or its limits for this process, do not let the service run; says what to change."""


def check_machine() -> None:
    """Raise the limit of open files as far as it may be, and check what the service cannot do without.

    Raises:
        UnfitMachine: says what to change.
    """
    _raise_limit_of_descriptors()
    try:
        for end in socket.socketpair():
            end.close()
    except OSError as error:
        raise UnfitMachine(
            f"unix sockets cannot be opened ({error.strerror}), and the event loop needs them: allow AF_UNIX "
            "(RestrictAddressFamilies= of the unit, or the container's seccomp profile)"
        ) from None


def _raise_limit_of_descriptors() -> None:
    """Raise the soft limit to the hard one; the usual one is low for the sake of select(2), which is not used here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != resource.RLIM_INFINITY and soft < MIN_DESCRIPTORS:
        raise UnfitMachine(
            f"{soft} files may be open at a time, and {MIN_DESCRIPTORS} are needed: "
            "raise the limit (LimitNOFILE= of the unit, ulimit -n)"
        )


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a private folder for what the workers share, for as long as the context is open.

    It is in memory if there is a file system for that: a worker that writes to a mapped file on a full disk is killed
    (SIGBUS).

    Raises:
        UnfitMachine: no folder can be written.
    """
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    try:
        folder = tempfile.TemporaryDirectory(prefix="rollcall-workers-", dir=memory)
    except OSError as error:
        raise UnfitMachine(
            f"several workers share a folder for temporary files, and none can be written ({error.strerror}): "
            f"mount a tmpfs at {SHARED_MEMORY} or /tmp, set TMPDIR, or set server.workers to 1"
        ) from None
    with folder as name:
        yield Path(name)
