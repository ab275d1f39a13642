"""The log on standard error: readable text in a terminal, a JSON object per line elsewhere."""

import atexit
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TextIO, cast

import structlog
from jwt import InsecureKeyLengthWarning

from service.log_writer import LogWriter

WARN_FOR_S = 600.0
"""Seconds for which `/readyz` warns after lines of the log were lost."""
DRAIN_S = 1.0
"""Seconds that the process waits for the log's reader when it ends."""

writer = LogWriter()


def configure() -> None:
    """Send structlog and the standard library's logging to one log."""
    shared, last = configure_structlog()
    handler = logging.StreamHandler(cast("TextIO", writer))
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *last]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # core/tokens/keys.py requires 32 bytes; PyJWT recommends 64 for HS512.
    warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)


def configure_structlog() -> tuple[Sequence[structlog.typing.Processor], Sequence[structlog.typing.Processor]]:
    """Send the service's own log to `writer`, and leave the standard library's logging alone.

    Returns:
        The processors that complete a line, and those that write it.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        # Plain: where rich is installed structlog would show local variables, tokens among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        last: list[structlog.typing.Processor] = [renderer]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_encoded)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", writer)),
        cache_logger_on_first_use=True,
    )
    atexit.register(drain)
    return shared, last


@cache
def _encoder(default: Callable[[Any], Any]) -> json.JSONEncoder:
    return json.JSONEncoder(default=default)


def _encoded(event: Any, *, default: Callable[[Any], Any]) -> str:
    """Do what `json.dumps` does, which makes an encoder for each line where `default` is given."""
    return _encoder(default).encode(event)


def drain() -> None:
    """Wait a moment until the log is written: the process is about to end."""
    writer.drain(DRAIN_S)


def lost_lines() -> Iterator[str]:
    """Yield a sentence for an operator while lines of the log were lost lately."""
    loss = writer.last_loss
    if loss is not None and time.monotonic() - loss.at_s < WARN_FOR_S:
        yield f"{writer.lost} lines of this process's log were lost since its start, the last because: {loss.reason}"
