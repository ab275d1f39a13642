"""Signals: what each means, alike for one process and for several workers.

SIGTERM, SIGINT and SIGQUIT end the service, SIGHUP reloads the configuration. The others that process managers and
`logrotate` send are ignored: their default would end one process at once, or stop it.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


def prepare() -> None:
    """Set what signals mean until the server handles them: an ending one exits with 0, and a SIGHUP waits.

    A SIGHUP that waits is about a file that may have been read already, so `accept_reloads` has it handled later.
    """
    for one in ENDING:
        signal.signal(one, _exit)
    ignore(*IGNORED)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def ignore(*signals: signal.Signals) -> None:
    """Ignore `signals` from now on; a child process inherits that."""
    for one in signals:
        signal.signal(one, signal.SIG_IGN)


def accept_reloads() -> None:
    """Let a SIGHUP through, now that it is handled; also one that came earlier."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what ends or reloads. A process that is forked within goes on holding it back until it says otherwise.

    A child has the handlers of its parent until it sets its own: what it got in between would be lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def accept_ending() -> None:
    """Let the signals through that end the process, now that they are handled."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _exit(*_: object) -> None:
    sys.exit(0)
