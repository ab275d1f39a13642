"""Reports of the workers to their master, over a pipe: that a worker listens, and that it has reloaded."""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress

_RECORD = struct.Struct("=ii")
"""The process, and what it reports."""
LISTENING, RELOADED = 1, 2


class WorkerReports:
    """The pipe. The master makes it before it forks, and reads; workers write."""

    def __init__(self) -> None:
        self._master = os.getpid()
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def listening(self) -> None:
        """Report that this worker takes connections."""
        self._report(LISTENING)

    def reloading(self) -> None:
        """Report nothing: the master has begun the reload."""

    def ready(self) -> None:
        """Report that this worker has reloaded, with the new file or the old one."""
        self._report(RELOADED)

    def read(self) -> Iterator[tuple[int, int]]:
        """Yield what came since the last call: a process and its report."""
        with suppress(BlockingIOError):
            # Records are written whole, and this is a multiple of their size.
            for record in _RECORD.iter_unpack(os.read(self._read_end, 512 * _RECORD.size)):
                yield record[0], record[1]

    def _report(self, report: int) -> None:
        with suppress(OSError):  # the master is gone
            os.write(self._write_end, _RECORD.pack(os.getpid(), report))
            if os.getppid() == self._master:
                os.kill(self._master, signal.SIGCHLD)  # at which it looks after its workers
