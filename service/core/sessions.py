"""Statuses, and the one table of their transitions.

The table is written once, here. `store/scripts.py` hands it to the Lua scripts, so that what Redis does
and what this page says cannot differ.
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Status(StrEnum):
    """The status of a user. `NONE` means that nothing is recorded; it is never stored."""

    NONE = "none"
    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


RECORDED = tuple(status for status in Status if status is not Status.NONE)
"""The statuses that a record can have, in the order in which they are shown."""


class Cause(StrEnum):
    """What can change a status."""

    REQUEST = "request"
    LOGOUT = "logout"
    OPERATOR_LOGOUT = "operator_logout"
    SUSPEND = "suspend"
    REINSTATE = "reinstate"
    TERMINATE = "terminate"
    OWN_SUSPEND = "own_suspend"
    """The user suspends its own account."""
    OWN_TERMINATE = "own_terminate"
    EXPIRY = "expiry"


class Refusal(StrEnum):
    """Why a cause does not change a status."""

    DENIED = "denied"
    """The user is suspended or terminated."""
    CONFLICT = "conflict"
    """The action does not fit this status."""
    UNKNOWN = "unknown"
    """There is no such user."""
    UNREADABLE = "unreadable"
    """The record of the user cannot be read. The store reports this; the table does not have it."""


_N, _I, _O, _E, _S, _T = Status
_DENIED, _CONFLICT, _UNKNOWN, _ = Refusal

TRANSITIONS: dict[Cause, dict[Status, Status | Refusal]] = {
    # from:                    none           logged_in       logged_out     expired        suspended      terminated
    Cause.REQUEST:         {_N: _I,       _I: _I,        _O: _I,        _E: _I,        _S: _DENIED,   _T: _DENIED},
    Cause.LOGOUT:          {_N: _O,       _I: _O,        _O: _O,        _E: _O,        _S: _DENIED,   _T: _DENIED},
    Cause.OPERATOR_LOGOUT: {_N: _UNKNOWN, _I: _O,        _O: _O,        _E: _O,        _S: _CONFLICT, _T: _CONFLICT},
    Cause.SUSPEND:         {_N: _S,       _I: _S,        _O: _S,        _E: _S,        _S: _S,        _T: _CONFLICT},
    Cause.REINSTATE:       {_N: _UNKNOWN, _I: _CONFLICT, _O: _CONFLICT, _E: _CONFLICT, _S: _O,        _T: _CONFLICT},
    Cause.TERMINATE:       {_N: _T,       _I: _T,        _O: _T,        _E: _T,        _S: _T,        _T: _T},
    Cause.OWN_SUSPEND:     {_N: _S,       _I: _S,        _O: _S,        _E: _S,        _S: _DENIED,   _T: _DENIED},
    Cause.OWN_TERMINATE:   {_N: _T,       _I: _T,        _O: _T,        _E: _T,        _S: _DENIED,   _T: _DENIED},
    Cause.EXPIRY:          {_N: _N,       _I: _E,        _O: _O,        _E: _E,        _S: _S,        _T: _T},
}  # fmt: skip
"""Cause → from → to. The same status: it stays, without an event."""


MOST_SESSIONS = 16_384
"""How many parsed records, and how many encoded ones, each process caches."""


@dataclass(slots=True, eq=False)
class Session:
    """The session of one user. Times are milliseconds since the epoch; None: not known.

    Not to be changed: who reads the same record again may get the same object; compared, and hashed, as itself. It does
    not say whose user it is: tenants may have one of the same name, with the same record.
    """

    user: str
    status: Status
    previous: Status | None
    since_ms: int | None
    seen_ms: int | None
    """When the user was last seen, exact to `sessions.seen_every` seconds."""
    expires_ms: int | None
    """The latest token expiry that the service has seen, without the tenant's leeway."""
    undated: bool = False
    """The last token carries no `iat`, so a revocation refuses such tokens until it is lifted."""

    @property
    def tokens_carry_iat(self) -> bool | None:
        """Whether the last token carries `iat`; None: there was no token."""
        return None if self.seen_ms is None else not self.undated

    @property
    def changed_ms(self) -> int:
        """The latest of its past moments, by Redis's clock; 0: none is known."""
        return max(self.since_ms or 0, self.seen_ms or 0)


class EndCause(StrEnum):
    """Why the answer to an admitted request should not go on."""

    SUSPENDED = "suspended"
    """The user was suspended, by an operator or by itself."""
    TERMINATED = "terminated"
    """The user was terminated, by an operator or by itself."""
    REVOKED = "revoked"
    """The token of the request was revoked, with the user's tokens or with all of the tenant's."""
    RESTRICTED = "restricted"
    """The user or the tenant was restricted from a capability that the request needed."""
    SHUTDOWN = "shutdown"
    """The application shuts down; nothing happened to the user."""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why and when the session of an admitted request ended."""

    cause: EndCause
    at_ms: int | None = None
    """When, by Redis's clock, in milliseconds since the epoch; None: not known."""
    by: str = ""
    """The operator's name, or `user`; empty: not known. It is for logs, not for the client."""
    reason: str = ""
    """What the operator gave as the reason; empty: none, or not known. It is for logs, not for the client."""
    capability: str = ""
    """The capability that a restriction names; empty for other causes."""


class OpenSession(Protocol):
    """An admitted request whose answer may last for long, and whoever waits for its session to end."""

    def ended(self) -> asyncio.Future[SessionEnd]:
        """Return a new future of the end. It is cancelled when the request is closed."""

    def close(self) -> None:
        """Cancel the futures that are pending: the request is answered."""
