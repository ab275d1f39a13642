"""Limit headers: the IETF draft's structured fields, the older X- ones, and Retry-After.

Source: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9651 (structured fields),
RFC 9110 section 10.2.3 (Retry-After). Names of limits hold nothing that a structured field must escape.
"""

from service.core.admission import Admission

UNAVAILABLE_RETRY_S = 1
"""What a 503 asks to wait: the service notices within a second that Redis is back."""


def limit_fields(admission: Admission, status: int) -> list[tuple[str, str]]:
    """What `admission` says of limits in the headers of an answer with `status`."""
    fields = [("x-degraded", ", ".join(admission.degraded))] if admission.degraded else []
    if status == 503:
        return fields
    shown = [standing for standing in admission.standings if not standing.limit.shadow]
    if not shown:
        return fields
    tightest = shown[0] if len(shown) == 1 else min(shown, key=lambda one: (one.remaining, -one.reset_s))
    fields += (
        (
            "RateLimit-Policy",
            ", ".join([f'"{s.limit.name}";q={s.limit.requests};w={s.limit.window_s}' for s in shown]),
        ),
        ("RateLimit", ", ".join([f'"{s.limit.name}";r={s.remaining};t={s.reset_s}' for s in shown])),
        ("X-RateLimit-Limit", str(tightest.limit.requests)),
        ("X-RateLimit-Remaining", str(tightest.remaining)),
        ("X-RateLimit-Reset", str(tightest.reset_s)),
    )
    if status == 429:
        fields.append(("Retry-After", str(admission.retry_after_s)))
    return fields
