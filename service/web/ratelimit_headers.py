"""Limit headers: the IETF draft's structured fields, the older X- ones, and Retry-After.

Source: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9651 (structured fields),
RFC 9110 section 10.2.3 (Retry-After). Names of limits hold nothing that a structured field must escape.
"""

from functools import lru_cache

from multidict import CIMultiDict

from service.core.admission import Admission
from service.core.limits import Limit

UNAVAILABLE_RETRY_S = 1
"""What a 503 asks to wait: the service notices within a second that Redis is back."""


def add_limit_headers(headers: CIMultiDict[str], admission: Admission, status: int) -> None:
    """Add what `admission` says of limits to the headers of an answer with `status`."""
    if admission.degraded:
        headers["x-degraded"] = ", ".join(admission.degraded)
    if status == 503:
        return
    shown = [standing for standing in admission.standings if not standing.limit.shadow]
    if not shown:
        return
    headers["RateLimit-Policy"] = ", ".join([_policy(standing.limit) for standing in shown])
    headers["RateLimit"] = ", ".join([f'"{s.limit.name}";r={s.remaining};t={s.reset_s}' for s in shown])
    tightest = min(shown, key=lambda standing: (standing.remaining, -standing.reset_s))
    headers["X-RateLimit-Limit"] = str(tightest.limit.requests)
    headers["X-RateLimit-Remaining"] = str(tightest.remaining)
    headers["X-RateLimit-Reset"] = str(tightest.reset_s)
    if status == 429:
        headers["Retry-After"] = str(admission.retry_after_s)


@lru_cache(maxsize=4096)
def _policy(limit: Limit) -> str:
    return f'"{limit.name}";q={limit.requests};w={limit.window_s}'
