"""The kinds of failures of Redis: a word for each, for the metric and the log."""

import re

from redis import exceptions

from service.core.errors import StoreUnavailable, StoreUnsuitable

CONNECTION, TIMEOUT, OVERLOAD, BREAKER = "connection", "timeout", "overload", "breaker"
READONLY, RECORD, OTHER = "READONLY", "record", "other"
KINDS = (
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.AuthenticationError, "NOAUTH"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "NOAUTH"),
    (exceptions.ReadOnlyError, READONLY),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.MaxConnectionsError, "max_clients"),
    (exceptions.TimeoutError, TIMEOUT),
    (TimeoutError, TIMEOUT),
    (ConnectionRefusedError, "refused"),
    (StoreUnsuitable, "unsuitable"),
)
"""Errors, special cases before general ones. redis-py removes the code from the text of those that it knows."""
CODES = frozenset({kind for _, kind in KINDS if kind.isupper()} | {"MISCONF", "NOREPLICAS", "BUSY", "WRONGTYPE"})
"""The codes of Redis's own errors."""


_ANSWERS: dict[str, type[Exception]] = {
    "ASK": exceptions.AskError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "CROSSSLOT": exceptions.ClusterCrossSlotError,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MOVED": exceptions.MovedError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "TRYAGAIN": exceptions.TryAgainError,
    "WRONGPASS": exceptions.AuthenticationError,
}
"""Code of an error that a server answers → the exception that redis-py's clients raise for it."""
_GENERIC = (
    ("max number of clients reached", exceptions.MaxConnectionsError),
    ("invalid password", exceptions.AuthenticationError),
    ("AUTH <password> called without any password", exceptions.AuthenticationError),
    ("wrong number of arguments for 'auth'", exceptions.AuthenticationWrongNumberOfArgsError),
)
"""The text after ERR → the same."""


def error_of(text: str) -> Exception:
    """Return the error that a server answered, as redis-py raises it: without the code, which the class represents."""
    code, _, rest = text.partition(" ")
    if (raised := _ANSWERS.get(code)) is not None:
        return raised(rest)
    if code == "ERR":
        for beginning, generic in _GENERIC:
            if rest.lower().startswith(beginning.lower()):
                return generic(rest)
        return exceptions.ResponseError(rest)
    return exceptions.ResponseError(text)


def kind_of(error: Exception) -> str:
    """Return the kind of an exception, or of an error that was answered."""
    for raised, kind in KINDS:
        if isinstance(error, raised):
            return kind
    if isinstance(error, OSError | exceptions.ConnectionError):
        causes = error.__cause__, error.__context__  # redis-py raises its own error while it handles the system's
        refused = any(isinstance(one, ConnectionRefusedError) for one in causes) or "refused" in str(error)
        return "refused" if refused else CONNECTION
    return kind_of_text(str(error))


def kind_of_text(text: str) -> str:
    """Return the kind of an error that a function answered as text."""
    found = re.match(r"-?([A-Z]+)\b", text)
    return found[1] if found and found[1] in CODES else OTHER


def is_unknown_function(error: Exception) -> bool:
    """Return whether Redis does not have the library, so that it ran nothing."""
    return isinstance(error, exceptions.ResponseError) and str(error) == "Function not found"


def is_loaded_already(error: Exception) -> bool:
    """Return whether FUNCTION LOAD found the same library: its name contains the hash of its text."""
    return isinstance(error, exceptions.ResponseError) and str(error).endswith("already exists")


NO_WRITES = "redis takes no writes"
"""The answer of `lua/admit.lua` if a request must write on a server that refuses writes."""


def write_refusal(error: Exception) -> str:
    """Return the kind of error with which a server refused a function because it takes no writes; else ''."""
    if not isinstance(error, exceptions.ResponseError) or str(error).endswith(NO_WRITES):
        return ""
    kind = kind_of(error)
    return kind if kind in ("OOM", "MISCONF", "NOREPLICAS") else ""


def ran_nothing(error: Exception) -> bool:
    """Return whether an answer is MOVED (an AskError, too) or ASK: nothing was run, and Redis is well."""
    in_order = isinstance(error, exceptions.AskError | exceptions.TryAgainError)
    return in_order or is_unknown_function(error) or is_loaded_already(error) or bool(write_refusal(error))


def reason_of(error: Exception) -> str:
    """Return the text for the log."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def unavailable(error: Exception) -> StoreUnavailable:
    """Return the error that callers get instead of `error`."""
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(reason_of(error), kind_of(error))
