"""Domain errors, independent of HTTP; `web/api/error_responses.py` maps each to its answer.

DomainError
├── Unauthenticated
│   ├── MissingTenantToken
│   ├── InvalidTenantToken
│   ├── MissingUserToken
│   ├── InvalidUserToken
│   │   └── UnknownKey          the token names a key that is not (yet) known
│   └── ExpiredUserToken
├── Denied
│   ├── UserSuspended
│   ├── UserTerminated
│   ├── RestrictedCapability
│   └── Forbidden
├── UnreadableRequest            the original request is missing, or servers read it differently
├── InvalidRequest               fields with wrong values
├── NotFound
├── Conflict                     the action does not fit the status
├── TooManyRequests
├── KeysUnavailable              there is no key set to check the user token with
├── StoreUnavailable             Redis did not answer; the request may have taken effect
├── StoreUnsuitable              Redis answers, but cannot be used as it is
└── UnexpectedState              an error in the service, reported without details
"""

from collections.abc import Sequence

BREAKER_IS_OPEN = "the circuit breaker is open"
"""The reason of a StoreUnavailable that is raised without waiting for Redis."""


class DomainError(Exception):
    """The base of all domain errors. `str()` of it is safe to show to a client."""

    message = "Something went wrong on our side."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)


class Unauthenticated(DomainError):
    """The credentials do not name a tenant and a user."""


class MissingTenantToken(Unauthenticated):
    """No tenant token was sent."""

    message = "Missing tenant token"


class InvalidTenantToken(Unauthenticated):
    """The tenant token belongs to no tenant."""

    message = "Invalid tenant token"


class MissingUserToken(Unauthenticated):
    """No user token was sent."""

    message = "Missing user token"


class InvalidUserToken(Unauthenticated):
    """The user token is malformed, forged, not meant for this tenant, or not valid yet."""

    message = "Invalid user token"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """The reason, for the log and never for the client. It does not quote the token."""


class UnknownKey(InvalidUserToken):
    """No key that is held verifies the token; a refetch of the key set may bring one that does."""

    def __init__(self, reason: str, ring: object = None, *, is_announced: bool = True) -> None:
        super().__init__(reason)
        self.ring = ring
        """The key ring whose key set may hold the key."""
        self.is_announced = is_announced
        """The token names a key that is not held. False: it names one that is held, and that does not verify it."""


class ExpiredUserToken(Unauthenticated):
    """The token's signature is good, but its `exp` (plus the tenant's leeway) has passed."""

    message = "User token has expired"


class Unauthorized(Unauthenticated):
    """The operator's token is missing, or no operator has it."""

    message = "Unauthorized"


class Denied(DomainError):
    """The credentials are good, but the request is not allowed."""


class UserSuspended(Denied):
    """An operator (or the user) has suspended the user."""

    message = "User is suspended"


class UserTerminated(Denied):
    """The user was terminated, which is final."""

    message = "User is terminated"


class RestrictedCapability(Denied):
    """The tenant or the user is restricted from this capability."""

    def __init__(self, capability: str) -> None:
        super().__init__(f"Capability {capability} is restricted")
        self.capability = capability


class Forbidden(Denied):
    """The request is not allowed, for another reason."""

    message = "Forbidden"


class UnreadableRequest(DomainError):
    """The original request cannot be read, so no rule can be applied to it."""

    message = "Bad Request"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """What is wrong, for the log. It does not quote the request."""


class InvalidRequest(DomainError):
    """Fields of the request have wrong values."""

    message = "The request could not be processed"

    def __init__(self, validation: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.validation = tuple(validation)
        """The field (its path with dots) and what is wrong with it, for each mistake."""


class Conflict(DomainError):
    """The action conflicts with the status; says what conflicts with what."""


class NotFound(DomainError):
    """Nothing has that name, or the client may not know of it."""

    message = "Not Found"


class TooManyRequests(DomainError):
    """A limit refuses. A client that waits for `retry_after_s` (whole seconds) is admitted."""

    message = "Too many requests"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class KeysUnavailable(DomainError):
    """The tenant's key set could not be fetched, so the user token cannot be checked."""

    message = "Service Unavailable"
    retry_after_s = 10
    """Seconds after which the next fetch has begun."""

    def __init__(self, reason: str, ring: object = None) -> None:
        super().__init__()
        self.reason = reason
        """The reason, for the log and never for the client."""
        self.ring = ring
        """The key ring that lacks the key set."""


class StoreUnavailable(DomainError):
    """Redis did not answer in time, or not at all. The request may have taken effect."""

    message = "Service Unavailable"

    def __init__(self, reason: str = "", kind: str = "") -> None:
        super().__init__()
        self.reason = reason
        """The reason, for the log only: it may name hosts."""
        self.kind = kind
        """A word for the metric, such as READONLY or timeout; empty: Redis did not fail, or the failure was counted."""


class StoreUnsuitable(DomainError):
    """The server at `redis.url` cannot be used as it is. Says what to change, for the log only."""


class UnexpectedState(DomainError):
    """The service's own code did not ensure something. Says what was missing."""
