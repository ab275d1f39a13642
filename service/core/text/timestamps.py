"""Timestamps in the format of every answer and event."""

import time
from functools import lru_cache


def timestamp(ms: int) -> str:
    """Return milliseconds since the epoch as `2025-01-15T10:30:00.000Z`."""
    return _to_the_second(ms // 1000) + _MILLISECONDS[ms % 1000]


def quoted_timestamp(ms: int | None) -> str:
    """Return the same as JSON: in quotes, or `null` for a moment that is not known."""
    return "null" if ms is None else f'"{timestamp(ms)}"'


_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))


@lru_cache(maxsize=1024)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
