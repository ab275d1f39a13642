"""The log never holds up or fails whoever writes to it; what cannot be written is counted."""

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service import log_writer
from service.log_writer import ATOMIC_BYTES, MAX_WAITING, READER_IS_SLOW, LogWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    log = LogWriter(pipe[1])
    for number in range(100):
        log.write(f"{number}\n")
    assert log.drain(5)
    assert os.read(pipe[0], 65536).decode().split() == [str(number) for number in range(100)]
    assert log.lost == 0


def test_lines_are_written_to_a_pipe_in_pieces_that_other_processes_cannot_tear(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[bytes] = []
    write = os.write

    def written(descriptor: int, data: bytes) -> int:
        pieces.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr("os.write", written)
    log = LogWriter(pipe[1])
    for number in range(300):
        log.write(f"{number:099}\n")
    assert log.drain(5)
    assert all(len(piece) <= ATOMIC_BYTES and piece.endswith(b"\n") for piece in pieces)


def test_a_line_for_a_reader_that_is_gone_is_lost_and_counted(pipe: tuple[int, int]) -> None:
    log = LogWriter(pipe[1])
    os.close(pipe[0])
    assert log.write("nobody reads this\n") == 18
    assert log.drain(5)
    assert log.lost == 1
    assert log.last_loss is not None
    assert log.last_loss.reason == "Broken pipe"


def test_a_line_that_finds_the_disk_full_is_lost_and_the_next_one_is_written() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    log = LogWriter(full)
    log.write("lost\n")
    assert log.drain(5)
    assert log.lost == 1
    os.dup2(writer, full)  # there is space again
    log.write("written\n")
    assert log.drain(5)
    assert os.read(reader, 100) == b"written\n"
    for descriptor in (full, reader, writer):
        os.close(descriptor)


def test_a_reader_that_does_not_read_delays_nobody_and_costs_bounded_memory(pipe: tuple[int, int]) -> None:
    log, line = LogWriter(pipe[1]), "x" * 499 + "\n"
    for _ in range(MAX_WAITING + 1000):
        log.write(line)
    assert not log.drain(0.01)
    assert log.lost > 0
    assert log.last_loss is not None
    assert log.last_loss.reason == READER_IS_SLOW
    read = 0
    while read < (MAX_WAITING + 1000 - log.lost) * len(line):  # it reads on: what waited arrives, whole
        read += len(os.read(pipe[0], 65536))
    assert log.drain(5)


def test_a_line_after_a_torn_one_begins_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        if not written:
            written.append(bytes(data)[:3])
            return 3
        if len(written) == 1:
            written.append(b"")
            raise OSError(28, "No space left on device")
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr("os.write", write)
    log = LogWriter()
    log.write("first line\n")
    assert log.drain(5)
    log.write("second line\n")
    assert log.drain(5)
    assert b"".join(written) == b"fir\nsecond line\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # gunicorn forks, too
def test_a_forked_child_writes_with_a_thread_of_its_own(pipe: tuple[int, int]) -> None:
    log = LogWriter(pipe[1])
    log.write("parent\n")
    assert log.drain(5)
    child = os.fork()
    if child == 0:
        log.write("child\n")
        os._exit(0 if log.drain(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(pipe[0], 100) == b"parent\nchild\n"


def test_a_finaliser_that_logs_while_a_loss_is_noted_does_not_wait_for_itself(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter(pipe[1])
    for _ in range(MAX_WAITING + 1000):  # the reader does not read, and the queue is full
        log.write("x" * 499 + "\n")
    made: list[int] = []
    real = log_writer.Loss

    def loss(at_s: float, reason: str) -> log_writer.Loss:
        if not made:  # as a garbage collection does that ends an object which logs
            made.append(1)
            log.write("from a finaliser\n")
        return real(at_s, reason)

    monkeypatch.setattr(log_writer, "Loss", loss)
    before = log.lost
    log.write("one more\n")
    assert log.lost == before + 2
