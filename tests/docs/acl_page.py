"""Writes docs/reference/redis-acl.md from the lists in the code: `make acl`."""

from pathlib import Path

from service.store.rights import CLIENT_COMMANDS, least_acl, least_sentinel_acl
from service.store.scripts import LIBRARY
from tests.kit import ROOT

PAGE = Path(ROOT) / "docs" / "reference" / "redis-acl.md"
SCRIPT_COMMANDS = list(LIBRARY.commands.values())
TITLES = {"single": "One server", "sentinel": "Sentinel", "cluster": "Cluster"}
INTRODUCTION = """# The rights that the service needs in Redis

The service needs the rights below in Redis or Valkey, and no others. Each block is a line for an ACL file.
`ACL SETUSER` takes the same words without `user`. Replace `PASSWORD`, and name user and password in `redis.url`:
`redis://rollcall:PASSWORD@host:6379`.

- The user can reach only keys and channels that begin with `rc:`, so that a server can be shared. With another
  `redis.namespace` write that in place of `rc` in `~rc:*` and `&rc:*`.
- Redis refuses `FLUSHALL`, `KEYS`, `CONFIG` and every other command that is not named.
- `INFO` is for the `maxmemory-policy`. Without it the service works, and `/readyz` warns that the policy is unknown.
- `HELLO` and `AUTH` need no rule: Redis always allows them.
- With a database other than 0 in `redis.url` add `+select`, with `client_name` add `+client|setname`.

The service checks its rights on every new connection, and `rollcall check --redis` checks them at any time. While one
is missing, the service is not ready, the log names it, and nothing is written that cannot be written whole.

`make acl` writes this page from the code, and a test compares the two.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for kind, title in TITLES.items():
        parts.append(f"## {title}\n\n```\n{_line(least_acl(SCRIPT_COMMANDS, kind))}\n```\n")
        if kind == "sentinel":
            parts.append(
                "The Sentinels have users of their own, which `redis.url` names by "
                "`?sentinel_username=…&sentinel_password=…`:\n\n"
                f"```\n{_line(least_sentinel_acl())}\n```\n"
            )
    scripts = "\n".join(f"| `{name}` | {_listed(commands)} |" for name, commands in LIBRARY.commands.items())
    parts.append(
        "## Where each right is used\n\n"
        f"| function | commands |\n|---|---|\n{scripts}\n| (the client) | {_listed(CLIENT_COMMANDS)} |\n"
    )
    return "\n".join(parts)


def _line(rules: list[str]) -> str:
    return f"user rollcall on >PASSWORD {' '.join(rules)}"


def _listed(commands: tuple[str, ...]) -> str:
    return ", ".join(f"`{command}`" for command in sorted(commands)).replace("|", "\\|") or "none"


if __name__ == "__main__":
    PAGE.write_text(page())
