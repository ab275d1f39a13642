"""What a connection needs of the server that it belongs to."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from service.web.server.head_limits import Refused
from service.web.server.hot_path import HotPath
from service.web.server.known_heads import KnownHeads

if TYPE_CHECKING:
    from service.web.server.front_door import FrontDoor


class Owner(Protocol):
    """The server, as its connections see it."""

    hot_path: HotPath
    known_heads: KnownHeads
    count_hot: Callable[[], None]
    """Counts a request that takes the hot path."""
    connections: set["FrontDoor"]
    max_connections: int
    """As many leave descriptors for everything else."""
    is_closing: bool
    """The service is about to end: the last answer on each connection says `Connection: close`."""

    def count_turned_away(self) -> None:
        """Count a client for which there is no room."""

    def make_handler(self) -> asyncio.Protocol:
        """Return aiohttp's handler for one connection."""

    def report_refused(self, client: str | None, refused: Refused) -> None:
        """Count and log a request that is not read as HTTP."""
