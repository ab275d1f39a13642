"""How much is tried: a little of everything in `make test`, more on demand."""

import os
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from hypothesis import HealthCheck, settings

CI = os.environ.get("CI") == "true"
"""There the same is tried each time: whether work lands is no matter of luck."""
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
"""Of each property."""
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "20000"))
"""At the port."""
SEED = os.environ.get("FUZZ_SEED") or ("0" if CI else str(SystemRandom().randrange(10**6)))
"""Which ones."""
TIMEOUT_S = 120 + EXAMPLES * 0.1
"""For one property. Many examples are no hang."""

Test = Callable[..., Any]


def tried(share: float = 1.0) -> Callable[[Test], Test]:
    """Try a property with this share of the examples."""
    return settings(
        max_examples=max(1, int(EXAMPLES * share)),
        derandomize=CI,
        deadline=None,  # a busy machine is no failure
        # Fixtures are made once for all examples, on purpose: what one leaves behind is there for the next.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
