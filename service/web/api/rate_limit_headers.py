"""Limit headers: the IETF draft's structured fields, the older X- ones, and Retry-After.

Source: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9651 (structured fields),
RFC 9110 section 10.2.3 (Retry-After). Names of limits hold nothing that a structured field must escape.
"""

from functools import lru_cache

from service.core.admission import Admission
from service.core.limits import Limit

UNAVAILABLE_RETRY_S = 1
"""`Retry-After` of a 503: the service notices within a second that Redis is back."""


def limit_lines(admission: Admission, status: int) -> str:
    """Return the header lines about limits for an answer with `status`."""
    lines = f"x-degraded: {', '.join(admission.degraded)}\r\n" if admission.degraded else ""
    if status == 503:
        return lines
    policies, states, tightest = "", "", None
    for limit_state in admission.limit_states:
        limit = limit_state.limit
        if limit.shadow:
            continue
        policy, state, requests = _constants(limit)
        remaining, reset_s = limit_state.remaining, limit_state.reset_s
        if tightest is None:
            policies, states = policy, f"{state}{remaining};t={reset_s}"
        else:
            policies, states = f"{policies}, {policy}", f"{states}, {state}{remaining};t={reset_s}"
        if tightest is None or (remaining, -reset_s) < (tightest[0], -tightest[1]):
            tightest = remaining, reset_s, requests
    if tightest is None:
        return lines
    remaining, reset_s, requests = tightest
    lines += (
        f"RateLimit-Policy: {policies}\r\nRateLimit: {states}\r\n{requests}"
        f"X-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset_s}\r\n"
    )
    if status == 429:
        lines += f"Retry-After: {admission.retry_after_s}\r\n"
    return lines


@lru_cache(maxsize=4096)
def _constants(limit: Limit) -> tuple[str, str, str]:
    """Return the constant parts: the policy, the state up to the numbers, and the line of the limit."""
    name, requests = limit.name, limit.requests
    return f'"{name}";q={requests};w={limit.window_s}', f'"{name}";r=', f"X-RateLimit-Limit: {requests}\r\n"
