"""After a reload: which limits that operators set hide what the file says, and which belong to no limit any more."""

import asyncio
from collections.abc import Iterator, Mapping

import structlog

from service.core.errors import StoreUnavailable
from service.core.limits import Limit
from service.core.operator_actions import OperatorActions
from service.core.tenants import Directory

log = structlog.get_logger()

DEADLINE_S = 30.0
MOST_LISTED = 100
"""Overrides in one line of the log."""


async def report_overrides(actions: OperatorActions, before: Directory, after: Directory) -> None:
    """Log which limits that operators set hide a change of the file, and which have no limit in the file any more.

    Args:
        actions: reads what operators set.
        before: the tenants before the reload.
        after: the tenants now.
    """
    hidden: list[str] = []
    stale: list[str] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            set_by_operators = await actions.limits_set(after.tenants)
    except (StoreUnavailable, TimeoutError) as error:
        log.info("limits that operators set are not compared with the file", reason=repr(error))
        return
    for name, tenant in after.tenants.items():
        overrides = set_by_operators.get(name, {})
        earlier = before.tenants.get(name)
        hidden += _hidden(name, overrides, {} if earlier is None else earlier.limits, tenant.limits)
        stale += sorted(f"{name}: {limit}" for limit in overrides.keys() - tenant.limits.keys())
    if hidden:
        log.warning(
            "limits that changed in the file are hidden by what operators set; lift it with DELETE to apply the file",
            limits=hidden[:MOST_LISTED],
            number=len(hidden),
        )
    if stale:
        log.warning(
            "operators set limits that are not configured any more; they apply to nothing",
            limits=stale[:MOST_LISTED],
            number=len(stale),
        )


def _hidden(
    tenant: str, overrides: Mapping[str, tuple[int, int]], before: Mapping[str, Limit], after: Mapping[str, Limit]
) -> Iterator[str]:
    for name, (requests, window_s) in sorted(overrides.items()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or (old.requests, old.window_s) == (new.requests, new.window_s):
            continue
        yield f"{tenant}: {name} is {requests}/{window_s} s, the file says {new.requests}/{new.window_s} s"
