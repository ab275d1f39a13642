"""A writer for the log: a thread writes the lines, so that no caller waits for the log's reader or fails with it.

Callers append to a bounded queue and go on. A line that cannot be written (full disk, closed pipe) and one that finds
the queue full (the reader is too slow) are dropped and counted. structlog's loggers would raise the OSError into the
caller, and a full pipe would stop the event loop.
"""

import io
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue

MAX_WAITING = 4096
"""The most lines that wait for the reader: about a second of refusals at full rate, one or two megabytes."""
ATOMIC_BYTES = 4096
"""Linux's PIPE_BUF: a write of this size to a pipe is atomic, whatever other workers write at the same time."""
READER_IS_SLOW = "the reader of the log does not keep up"


@dataclass(frozen=True, slots=True)
class Loss:
    """The most recent loss of lines."""

    at_s: float
    """By `time.monotonic`."""
    reason: str


class LogWriter(io.TextIOBase):
    """A text stream for loggers whose `write` neither blocks nor raises.

    Args:
        descriptor: where the lines go, standard error unless a test says otherwise.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        """Reset the writer in a forked child, which has no thread; the parent writes what waits in the queue."""
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_line_torn = False
        self.lost = 0
        """Lines of this process that were dropped."""
        self.last_loss: Loss | None = None

    def write(self, text: str) -> int:
        """Queue `text`, one or more whole lines."""
        if self._waiting.qsize() >= MAX_WAITING:
            self._lose(1, READER_IS_SLOW)
        else:
            self._waiting.put(text)
            if self._thread is None:
                self._start_thread()
        return len(text)

    def flush(self) -> None:
        """Do nothing: `drain` waits."""

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything that was queued before is written or dropped.

        Returns:
            False where that takes longer than `timeout_s` seconds: the reader is too slow.
        """
        if self._thread is None:
            return True
        reached = threading.Event()
        self._waiting.put(reached)
        return reached.wait(timeout_s)

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            # Signals are for the main thread, which may hold some back (see `process/workers.py`).
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                thread = threading.Thread(target=self._run, name="log", daemon=True)
                thread.start()
                self._thread = thread
            except RuntimeError as error:  # no more threads: the next line tries again, until the queue is full
                self.last_loss = Loss(time.monotonic(), str(error))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self) -> None:
        while True:
            lines: list[bytes] = []
            size, reached = 0, None
            item: str | threading.Event = self._waiting.get()
            while True:
                if isinstance(item, threading.Event):
                    reached = item
                    break
                line = item.encode(errors="replace")
                if lines and size + len(line) > ATOMIC_BYTES:
                    self._put(lines)
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
                try:
                    item = self._waiting.get_nowait()
                except Empty:
                    break
            self._put(lines)
            if reached is not None:
                reached.set()

    def _put(self, lines: list[bytes]) -> None:
        if not lines:
            return
        data = b"".join(lines)
        rest = memoryview(b"\n" + data if self._is_line_torn else data)
        whole = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another process made the shared pipe non-blocking
                    select.select([], [self._descriptor], [])
            self._is_line_torn = False
        except (OSError, ValueError) as error:
            self._is_line_torn = self._is_line_torn or len(rest) < whole
            self._lose(len(lines), getattr(error, "strerror", None) or str(error))

    def _lose(self, lines: int, reason: str) -> None:
        # Made outside the lock: it may start a garbage collection, and a finaliser that logs comes back here.
        loss = Loss(time.monotonic(), reason)
        with self._lock:
            self.lost += lines
            self.last_loss = loss
