"""Domain errors. They know nothing of HTTP; `web/api/error_responses.py` maps each to its answer.

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
├── UnreadableRequest            what a proxy asks about was not told, or servers read it differently
├── InvalidRequest               what was sent is not what was asked for, field by field
├── NotFound
├── Conflict                     the act makes no sense as things stand
├── TooManyRequests
├── KeysUnavailable              there is no key set to judge the user token with
├── StoreUnavailable             Redis did not answer; what was asked may have taken effect
├── StoreUnsuitable              Redis answered, and cannot be used as it is
└── UnexpectedState              a mistake of ours, told without its details
"""

from collections.abc import Sequence

BREAKER_IS_OPEN = "the circuit breaker is open"
"""Why StoreUnavailable is raised at once, where nobody is let to wait for Redis."""


class DomainError(Exception):
    """What keeps a request from being answered as asked. `str()` of it is safe to show to a client."""

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
        """For the log, never for the client: which of these it is, without quoting it."""


class UnknownKey(InvalidUserToken):
    """The token names a `kid` that the tenant's key ring does not hold; a refetch may bring it."""


class ExpiredUserToken(Unauthenticated):
    """The token is genuine, but its `exp` (plus the tenant's leeway) has passed."""

    message = "User token has expired"


class Unauthorized(Unauthenticated):
    """No operator's token, or one that nobody has."""

    message = "Unauthorized"


class Denied(DomainError):
    """The credentials are good, what they ask for is not allowed."""


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
    """Not for this caller, for a reason that is none of the above."""

    message = "Forbidden"


class UnreadableRequest(DomainError):
    """What is asked cannot be understood, so no rule can be held to it."""

    message = "Bad Request"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the log: what was wrong, without quoting it."""


class InvalidRequest(DomainError):
    """What was sent is not what was asked for."""

    message = "The request could not be processed"

    def __init__(self, validation: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.validation = tuple(validation)
        """Field (dots between its steps) and what is wrong with it, of each mistake."""


class Conflict(DomainError):
    """The act makes no sense as things stand; says what conflicts with what."""


class NotFound(DomainError):
    """There is nothing of that name, or nothing that this caller may know of."""

    message = "Not Found"


class TooManyRequests(DomainError):
    """A limit refuses. `retry_after_s` is in whole seconds: whoever waits so long is admitted."""

    message = "Too many requests"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class KeysUnavailable(DomainError):
    """The tenant's key set could not be fetched, so the user token can be judged neither good nor bad."""

    message = "Service Unavailable"
    retry_after_s = 10
    """By then the next fetch has begun."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the log, never for the client."""


class StoreUnavailable(DomainError):
    """Redis did not answer in time, or not at all. What was asked may have taken effect."""

    message = "Service Unavailable"

    def __init__(self, reason: str = "", kind: str = "") -> None:
        super().__init__()
        self.reason = reason
        """For the log alone: may name hosts."""
        self.kind = kind
        """For the metric: a word such as READONLY or timeout; empty where Redis did not fail, or that is counted."""


class StoreUnsuitable(DomainError):
    """The server at `redis.url` cannot be used as it is: says what has to be changed. For the log alone."""


class UnexpectedState(DomainError):
    """Something that our own code should have made sure of is not so. Says what was missing."""
