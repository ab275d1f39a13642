"""What the user that the service is in Redis may have to run: found in the scripts, listed for the client.

Each script asks for its own commands before its first write, the start check asks for all of them, and the least ACL in
the documentation is written from the same lists.
"""

import re
from collections.abc import Collection, Iterable

from service.store.connection.failovers import CHANNELS
from service.store.keyspace import (
    ADOPTED,
    CACHE_CHANNEL,
    EVENT_CHANNEL,
    NO_TENANT,
    PROBE,
    SWEEPER,
    TENANTS,
    WINDOWS,
    keys_of,
)

CLIENT_COMMANDS = (
    "EXISTS", "EXPIRE", "GET", "HGETALL", "HINCRBY", "HMGET", "HSET", "MGET", "PERSIST", "PUBLISH", "SADD",
    "SCAN", "SET", "SMEMBERS", "SREM", "XINFO|STREAM", "XRANGE", "XREVRANGE", "ZADD", "ZCARD", "ZINCRBY",
    "ZREMRANGEBYRANK", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCAN",
)  # fmt: skip
"""What the client sends beside the scripts (pages, the sweep, webhooks, charts). A test compares it with the code."""
SERVICE_COMMANDS = ("EVAL", "EVALSHA", "INFO", "PING", "SCRIPT|LOAD", "SUBSCRIBE")
"""What belongs to no key: scripts, the start check, signs of life, subscriptions. HELLO and AUTH are always allowed."""
KEYLESS = frozenset({"PUBLISH", "TIME"})
"""Commands of scripts that have no key."""
_READING = frozenset({"EXISTS", "GET", "HGET", "HGETALL", "HMGET", "TIME", "XREVRANGE", "ZRANGEBYSCORE", "ZSCORE"})
"""Commands that write nothing: a script of these alone need not ask."""


def commands_of(texts: Iterable[str]) -> list[str]:
    """The commands that a script may run: those outside of its functions, and of the functions that these lead to.

    Args:
        texts: the parts of the script; functions stand at the left margin, as `local function NAME`.
    """
    functions: dict[str, str] = {}
    main = ""
    for text in texts:
        functions_here, main_here = _parted(text)
        functions |= functions_here
        main += main_here
    reached: dict[str, str] = {}
    waiting = [main]
    while waiting:
        words = set(re.findall(r"\b[a-z_]\w*\b", waiting.pop()))
        for name in (functions.keys() & words) - reached.keys():
            reached[name] = functions[name]
            waiting.append(functions[name])
    return sorted(set(re.findall(r"\bp?call\('([A-Z]+)'", "\n".join([main, *reached.values()]))))


def writes(commands: Collection[str]) -> bool:
    """Whether any of these commands writes or publishes."""
    return not _READING.issuperset(commands)


def _parted(text: str) -> tuple[dict[str, str], str]:
    """The functions of a text, by name, and what is left of it; comments are dropped."""
    functions: dict[str, str] = {}
    main: list[str] = []
    inside = ""
    for line in text.splitlines():
        line = line.split("--")[0]
        begins = re.match(r"local function (\w+)", line)
        if begins:
            inside = begins[1]
            functions[inside] = ""
        if not inside:
            main.append(line)
            continue
        functions[inside] += f"{line}\n"
        if line.rstrip() == "end" or (begins and re.search(r"\bend\s*$", line)):
            inside = ""
    return functions, "\n".join([*main, ""])


def questions(scripts: Iterable[Collection[str]]) -> list[tuple[str, ...]]:
    """What the start check asks about: each command once, with a key or channel of the service's where it has one.

    Args:
        scripts: the commands of each.
    """
    asked: list[tuple[str, ...]] = [("TIME",), ("PING",), ("EVALSHA", "", "1", SAMPLE), ("SCRIPT", "LOAD", "")]
    about_keys = {*CLIENT_COMMANDS, *(command for of in scripts for command in of)} - KEYLESS
    asked += [(*command.split("|"), SAMPLE) for command in sorted(about_keys)]
    # Keys that belong to no tenant, each with the least of what is done to it.
    asked += [("SADD", TENANTS), ("SET", SWEEPER), ("SET", PROBE), ("GET", WINDOWS), ("SET", WINDOWS), ("SET", ADOPTED)]
    for channel in (EVENT_CHANNEL, CACHE_CHANNEL):
        asked += [("PUBLISH", channel), ("SUBSCRIBE", channel)]
    return asked


SAMPLE = f"{keys_of(NO_TENANT).tag}rights"
"""Stands for the keys of tenants; it is never written."""

DEPLOYMENTS: dict[str, tuple[str, ...]] = {
    "single": (),
    "sentinel": (),
    "cluster": ("ASKING", "CLUSTER|SLOTS", "COMMAND"),
}
"""Kind of deployment → what its nodes are asked beside what every server is."""
SENTINEL_COMMANDS = (
    "PING", "PSUBSCRIBE", "SENTINEL|GET-MASTER-ADDR-BY-NAME", "SENTINEL|MYID", "SENTINEL|SENTINELS",
)  # fmt: skip
"""What the Sentinels are asked, which have users of their own."""


def least_acl(scripts: Iterable[Collection[str]], deployment: str) -> list[str]:
    """The rules of the least ACL for the service's user on a server: keys, channels, commands.

    Args:
        scripts: the commands of each.
        deployment: one of `DEPLOYMENTS`.
    """
    commands = {*SERVICE_COMMANDS, *CLIENT_COMMANDS, *DEPLOYMENTS[deployment], *(one for of in scripts for one in of)}
    return ["resetkeys", f"~{PREFIX}:*", "resetchannels", f"&{PREFIX}:*", "-@all", *_allowed(commands)]


def least_sentinel_acl() -> list[str]:
    """The same for the service's user on the Sentinels."""
    channels = [f"&{channel}" for channel in CHANNELS]
    return ["resetkeys", "resetchannels", *channels, "-@all", *_allowed(SENTINEL_COMMANDS)]


def _allowed(commands: Iterable[str]) -> list[str]:
    return [f"+{command.lower()}" for command in sorted(commands)]


PREFIX = TENANTS.partition(":")[0]
"""The namespace of all keys and channels."""
