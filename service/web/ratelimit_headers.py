"""Limit headers: the IETF draft's structured fields, the older X- ones, and Retry-After.

Source: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9651 (structured fields),
RFC 9110 section 10.2.3 (Retry-After). Names of limits hold nothing that a structured field must escape.
"""

from service.core.admission import Admission

UNAVAILABLE_RETRY_S = 1
"""What a 503 asks to wait: the service notices within a second that Redis is back."""


def limit_lines(admission: Admission, status: int) -> str:
    """What `admission` says of limits in the headers of an answer with `status`: lines, each ended."""
    lines = f"x-degraded: {', '.join(admission.degraded)}\r\n" if admission.degraded else ""
    if status == 503:
        return lines
    policies, states = [], []
    tightest: tuple[int, int, int] | None = None
    for standing in admission.standings:
        limit = standing.limit
        if limit.shadow:
            continue
        remaining, reset_s = standing.remaining, standing.reset_s
        policies.append(f'"{limit.name}";q={limit.requests};w={limit.window_s}')
        states.append(f'"{limit.name}";r={remaining};t={reset_s}')
        if tightest is None or (remaining, -reset_s) < tightest[:2]:
            tightest = (remaining, -reset_s, limit.requests)
    if tightest is None:
        return lines
    lines += (
        f"RateLimit-Policy: {', '.join(policies)}\r\nRateLimit: {', '.join(states)}\r\n"
        f"X-RateLimit-Limit: {tightest[2]}\r\nX-RateLimit-Remaining: {tightest[0]}\r\n"
        f"X-RateLimit-Reset: {-tightest[1]}\r\n"
    )
    if status == 429:
        lines += f"Retry-After: {admission.retry_after_s}\r\n"
    return lines
