"""The Lua functions, and how they are called.

All of them are one function library (`FUNCTION LOAD`): the transition table of `core/sessions.py` as Lua, what the
verbs share (`record.lua`, `window_form.lua`, `window.lua`, `rules.lua`), and a verb a file. Its name, and the name of
each function, carry the hash of its text, so that different versions of the service can use one server.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from service.core.clocks import FORGIVEN_SKEW_S
from service.core.sessions import MOST_SESSIONS, TRANSITIONS, Refusal, Session, Status
from service.store.keyspace import (
    ANY_REVOKED,
    ANY_USER,
    DEFAULT_NAMESPACE,
    ENDED,
    EVENTS_CAP,
    KEPT,
    LEASE_MS,
    NAMES,
    REVOKED,
    REVOKED_SKEW,
)
from service.store.rights import KEYLESS, commands_of, writes

AHEAD = 2**40
"""`lua/admit.lua` subtracts it from its answer where a revocation lies ahead of Redis's clock. More than any second."""
LACKS_INDEXES, LACKS_RULES = "LACKS indexes", "LACKS rules"
"""A question's own errors, where it takes keys that were not sent: the tenant's indexes, its users' rules."""
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


@dataclass(slots=True)
class Library:
    """The function library as it is loaded, and how its functions are called."""

    name: str
    text: str
    functions: dict[str, str]
    """A function, by its name here, and as it is registered: with the hash of the text, since names are unique across
    libraries and several versions of the service may share a server."""
    commands: dict[str, tuple[str, ...]]
    """A verb, and the commands that it may run."""


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
        f"local EVENTS_CAP, LONGEST_LEASE_MS = '{EVENTS_CAP}', {LEASE_MS}",
        f"local ANY_USER, REVOKED, ANY_REVOKED = '{ANY_USER}', '{REVOKED}', '{ANY_REVOKED}'",
        f"local REVOKED_SKEW = '{REVOKED_SKEW}'",
        f"local ENDED, KEPT = {ENDED}, {KEPT}",
        f"local AHEAD, MAY_BE_AHEAD_S = {AHEAD}, {FORGIVEN_SKEW_S}",
        f"local LACKS_INDEXES, LACKS_RULES = '{LACKS_INDEXES}', '{LACKS_RULES}'",
        f"local NEWS, PUSHES = '{NAMES.event_channel}', '{NAMES.cache_channel}'",
        # Errors that are not one question's, but the server's: everybody's, and they open the circuit breaker.
        "local SERVERS_OWN = { READONLY = true, OOM = true, MISCONF = true, NOREPLICAS = true, NOPERM = true }",
    )
    return "".join(f"{line}\n" for line in lines)


def _text(name: str) -> str:
    """A file of `lua/` without its comments: they are not Redis's to keep."""
    lines = (files("service.store") / "lua" / f"{name}.lua").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.lstrip().startswith("--"))


def _lua_list(words: Iterable[str]) -> str:
    return "{" + ", ".join(words) + "}"


def _verb(name: str, shared: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The text of a verb, which registers its functions, and the commands that it may run."""
    text = _text(name)
    commands = tuple(commands_of([*shared, text], "run"))
    # Reads as well as writes: a later question of a batch reads after the write of an earlier one.
    needed = [f"'{one}'" for one in commands if one not in KEYLESS] if writes(commands) else []
    channels = _lua_list(("NEWS", "PUSHES") if "PUBLISH" in commands else ())
    lines = ["do", f"local NEEDED, PUBLISHED = {_lua_list(needed)}, {channels}", text]
    if needed and name not in _ASKS_ITSELF:
        body = "start(keys, argv)\nlocal wrong = lacking(NEEDED, PUBLISHED)\n"
        body += "if wrong then return redis.error_reply(wrong) end\nreturn run()"
    else:
        body = "start(keys, argv)\nreturn run()"
    lines.append(f"local function call_it(keys, argv)\n{body}\nend")
    for function, flags in _FLAGS.get(name, {name: ()}).items():
        named = f"function_name='{_PREFIX}{function}_{_HASH}', flags={_lua_list(map(repr, flags))}"
        lines.append(f"redis.register_function{{{named}, callback=call_it}}")
    return "\n".join([*lines, "end"]), commands


def build(change: Callable[[str], str] = lambda text: text) -> Library:
    """Make the library for the namespace that is in use.

    Args:
        change: is applied to the whole text, before it gets the names that depend on it.
    """
    shared = [_text(part) for part in _SHARED]
    verbs = {name: _verb(name, shared) for name in _VERBS}
    text = change("\n".join([_preamble(), *shared, *(part for part, _ in verbs.values()), ""]))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"{library_prefix()}{digest}"
    functions = [function for verb in _VERBS for function in _FLAGS.get(verb, {verb: ()})]
    return Library(
        name,
        f"#!lua name={name}\n{text.replace(_HASH, digest)}",
        {function: f"{_PREFIX}{function}_{digest}" for function in functions},
        {verb: commands for verb, (_, commands) in verbs.items()},
    )


def library_prefix() -> str:
    """Return what the name of every version's library begins with, before the hash of its text.

    A namespace has libraries of its own: its workers note which are in use, and delete the others.
    """
    namespace = NAMES.namespace
    own = "" if namespace == DEFAULT_NAMESPACE else f"{hashlib.sha256(namespace.encode()).hexdigest()[:8]}_"
    return f"rollcall_{own}"


def is_library(name: str) -> bool:
    """Return whether `name` is that of a library of this namespace, of any version."""
    return re.fullmatch(f"{library_prefix()}[0-9a-f]{{16}}", name) is not None


_PREFIX, _HASH = "rc_", "HASH_OF_THE_LIBRARY"
_SHARED = ("record", "window_form", "window", "rules")
_VERBS = (
    "admit", "act", "restrict", "revoke", "override", "forget", "peek", "reset", "retain", "due", "rights", "lease",
    "look", "trail", "sample", "sweep", "tidy", "untidy", "settle", "retire", "mend", "mend_rules", "use",
    "inspect",
)  # fmt: skip
_ASKS_ITSELF = frozenset({"admit"})
"""Functions that ask for their rights themselves, and only before they write a second key."""
_READS, _FREES = ("no-writes",), ("allow-oom",)
_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "admit": {"admit": (), "admit_reading": _READS},
    "peek": {"peek": _READS},
    "due": {"due": _READS},
    "untidy": {"untidy": _READS},
    "rights": {"rights": _READS},
    "look": {"look": _READS},
    "inspect": {"inspect": _READS},
    "trail": {"trail": _READS},
    "forget": {"forget": _FREES},
    "reset": {"reset": _FREES},
    "sweep": {"sweep": _FREES},
    "tidy": {"tidy": _FREES},
    "settle": {"settle": _FREES},
    "retire": {"retire": _FREES},
}
"""Verb → the functions that call it, and their flags.

A full server, one that cannot write to disk and one without enough replicas refuse a function without flags whole, also
where it would only read: then the `_reading` one is called. What frees memory may run on a full server.
"""

LIBRARY = build()
"""The library of this version; read at import, so that no request waits for the disk."""


def rebuild() -> None:
    """Make the library anew, for another namespace."""
    made = build()
    LIBRARY.name, LIBRARY.text, LIBRARY.functions = made.name, made.text, made.functions
