"""The program: `rollcall`, and the same by `python -m service`."""

import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ends: 128 and the number of SIGINT, as in a shell."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Ctrl-C ends it without a traceback, also while its modules are imported, which takes up to a second. A service that
    serves takes the signal itself, and drains.
    """
    try:
        from service.command_line import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
