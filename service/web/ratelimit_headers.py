"""Limit headers: the IETF draft's structured fields, the older X- ones, and Retry-After.

Source: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9651 (structured fields),
RFC 9110 section 10.2.3 (Retry-After). Names of limits hold nothing that a structured field must escape.
"""

from functools import lru_cache

from service.core.admission import Admission
from service.core.limits import Limit

UNAVAILABLE_RETRY_S = 1
"""What a 503 asks to wait: the service notices within a second that Redis is back."""


def limit_lines(admission: Admission, status: int) -> str:
    """What `admission` says of limits in the headers of an answer with `status`: lines, each ended."""
    lines = f"x-degraded: {', '.join(admission.degraded)}\r\n" if admission.degraded else ""
    if status == 503:
        return lines
    shown = [standing for standing in admission.standings if not standing.limit.shadow]
    if not shown:
        return lines
    policies, states, tightest = "", "", shown[0]
    for standing in shown:
        policy, state = _constants(standing.limit)
        if policies:
            policies, states = f"{policies}, ", f"{states}, "
            if (standing.remaining, -standing.reset_s) < (tightest.remaining, -tightest.reset_s):
                tightest = standing
        policies += policy
        states += f"{state}{standing.remaining};t={standing.reset_s}"
    lines += (
        f"RateLimit-Policy: {policies}\r\nRateLimit: {states}\r\nX-RateLimit-Limit: {tightest.limit.requests}\r\n"
        f"X-RateLimit-Remaining: {tightest.remaining}\r\nX-RateLimit-Reset: {tightest.reset_s}\r\n"
    )
    if status == 429:
        lines += f"Retry-After: {admission.retry_after_s}\r\n"
    return lines


@lru_cache(maxsize=4096)
def _constants(limit: Limit) -> tuple[str, str]:
    """Its policy, and its state up to the numbers that change."""
    return f'"{limit.name}";q={limit.requests};w={limit.window_s}', f'"{limit.name}";r='
