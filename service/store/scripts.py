"""The Lua verbs, and how they are called.

A script is several texts in one: the transition table of `core/sessions.py` as Lua, what it shares with others
(`record.lua`, and what it names of `window.lua` and `rules.lua`), and the verb. Redis knows a script by the SHA-1 of
its text.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from service.core.sessions import MOST_SESSIONS, TRANSITIONS, Refusal, Session, Status
from service.store.keyspace import (
    ANY_REVOKED,
    ANY_USER,
    CACHE_CHANNEL,
    EVENT_CHANNEL,
    EVENTS_CAP,
    LEASE_MS,
    REVOKED,
    REVOKED_SKEW,
)
from service.store.rights import KEYLESS, commands_of, writes

LETTERS = {
    Status.NONE: "-",
    Status.LOGGED_IN: "i",
    Status.LOGGED_OUT: "o",
    Status.EXPIRED: "e",
    Status.SUSPENDED: "s",
    Status.TERMINATED: "t",
}
"""A status as its record spells it."""
STATUSES = {letter: status for status, letter in LETTERS.items()}
_BY_BYTE = {ord(letter): status for letter, status in STATUSES.items()}
_PREVIOUS: dict[int, tuple[Status | None, bool]] = {
    ord(spelled): (status if letter != "-" else None, undated)
    for letter, status in STATUSES.items()
    for undated, spelled in ((False, letter), (True, "_" if letter == "-" else letter.upper()))
}
"""The second byte of a record → the status before, and whether the token seen last carries no `iat`."""


@dataclass(frozen=True, slots=True)
class Script:
    """A verb, ready to be sent: its text, and the SHA-1 that Redis knows it by."""

    name: str
    text: str
    sha: str
    commands: tuple[str, ...]
    """What it may run."""


@lru_cache(maxsize=MOST_SESSIONS)  # most requests find the record as it was: last seen is written once in `seen_every`
def parse_record(user: str, text: bytes) -> Session | None:
    """A user's record as `record.lua` writes it; None where there is none."""
    if not text:
        return None
    _, since, seen, expires, *_ = text.split(b" ")
    previous, undated = _PREVIOUS[text[1]]
    return Session(
        user, _BY_BYTE[text[0]], previous, int(since) or None, int(seen) or None, int(expires) or None, undated
    )


def _preamble() -> str:
    def row(moves: dict[Status, Status | Refusal]) -> str:
        cells = (
            f"['{LETTERS[start]}']='{LETTERS[to] if isinstance(to, Status) else to.value}'"
            for start, to in moves.items()
        )
        return "{" + ",".join(cells) + "}"

    moves = ",".join(f"{cause.value}={row(moves)}" for cause, moves in TRANSITIONS.items())
    names = ",".join(f"['{letter}']='{status.value}'" for letter, status in STATUSES.items())
    lines = (
        f"local MOVES = {{{moves}}}",
        f"local NAMES = {{{names}}}",
        f"local EVENTS_CAP, LONGEST_LEASE_MS = {EVENTS_CAP}, {LEASE_MS}",
        f"local ANY_USER, REVOKED, ANY_REVOKED = '{ANY_USER}', '{REVOKED}', '{ANY_REVOKED}'",
        f"local REVOKED_SKEW = '{REVOKED_SKEW}'",
        f"local NEWS, PUSHES = '{EVENT_CHANNEL}', '{CACHE_CHANNEL}'",
        # Errors that are not one question's, but the server's: everybody's, and they open the circuit breaker.
        "local SERVERS_OWN = { READONLY = true, OOM = true, MISCONF = true, NOREPLICAS = true, NOPERM = true }",
    )
    return "".join(f"{line}\n" for line in lines)


def _read(name: str, *shared: str) -> Script:
    folder = files("service.store") / "lua"
    parts = [(folder / f"{part}.lua").read_text() for part in ("record", *shared, name)]
    commands = commands_of(parts)
    text = "\n".join([_preamble(), _rights(commands), *parts])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), tuple(commands))


def _rights(commands: Sequence[str]) -> str:
    """What the script asks for before its first write. Reads as well: a later question of a batch reads after it."""
    needed = [command for command in commands if command not in KEYLESS] if writes(commands) else []
    published = "NEWS, PUSHES" if "PUBLISH" in commands else ""
    return "local NEEDED, PUBLISHED = {" + ", ".join(f"'{command}'" for command in needed) + f"}}, {{{published}}}"


_VERBS = (
    ("admit", "window"),
    ("act", "rules"),
    ("restrict", "rules"),
    ("revoke", "rules"),
    ("override", "rules"),
    ("forget",),
    ("peek", "window"),
    ("reset",),
    ("retain", "window"),
    ("due",),
    ("probe",),
    ("rights",),
    ("lease",),
    ("look",),
    ("sample",),
    ("sweep",),
    ("tidy", "rules"),
    ("settle", "rules"),
    ("retire",),
    ("mend",),
    ("mend_rules", "rules"),
)

SCRIPTS = {verb[0]: _read(*verb) for verb in _VERBS}
"""Every verb, by the name of its file in `lua/`; read at import, so that no request waits for the disk."""
