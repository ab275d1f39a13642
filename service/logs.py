"""One log on standard error: for eyes in a terminal, one JSON object a line elsewhere."""

import logging
import sys
import warnings

import structlog
from jwt import InsecureKeyLengthWarning


def configure() -> None:
    """Send structlog and the standard library's logging the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        # Plain: where rich is installed structlog would show local variables, tokens among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        last: list[structlog.typing.Processor] = [renderer]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *last]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # The contract asks for 32 bytes, which core/tokens.py makes sure of; PyJWT would like 64 for HS512.
    warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)
