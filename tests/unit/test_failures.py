"""What Redis fails with has a kind of its own, from a fixed set."""

import pytest
from redis import exceptions

from service.core.errors import StoreUnsuitable
from service.store.connection.failures import kind_of, kind_of_text, unavailable


def refused() -> Exception:
    error = exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:1.")
    error.__cause__ = ConnectionRefusedError()
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ReadOnlyError("You can't write"), "READONLY"),
        (exceptions.NoPermissionError("this user has no permissions"), "NOPERM"),
        (exceptions.OutOfMemoryError("command not allowed"), "OOM"),
        (exceptions.BusyLoadingError("Redis is loading"), "LOADING"),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), "MISCONF"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), "NOREPLICAS"),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), "BUSY"),
        (exceptions.ClusterCrossSlotError("Keys in request don't hash"), "CROSSSLOT"),
        (exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN"),
        (exceptions.AuthenticationError("invalid username-password pair"), "NOAUTH"),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "WRONGTYPE"),
        (exceptions.ResponseError("SOMETHING that somebody wrote"), "other"),
        (TimeoutError(), "timeout"),
        (exceptions.TimeoutError("Timeout reading"), "timeout"),
        (ConnectionRefusedError(), "refused"),
        (refused(), "refused"),
        (exceptions.ConnectionError("Connection closed by server."), "connection"),
        (ConnectionResetError(), "connection"),
        (StoreUnsuitable("too old"), "unsuitable"),
    ],
)
def test_an_error_has_a_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind
    assert unavailable(error).kind == kind


def test_an_error_that_a_script_answered_has_a_kind() -> None:
    assert kind_of_text("-OOM command not allowed") == "OOM"
    assert kind_of_text("ERR what is this") == "other"
