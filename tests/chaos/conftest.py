"""Whatever is broken here is a real Redis."""

import pytest

from service.store.embedded.server import find_server
from tests.kit import needs


@pytest.fixture(autouse=True)
def _a_server() -> None:
    needs("a Redis server", found=find_server() is not None)
