"""The rights that the service's user needs in Redis: found in the scripts, listed for the client.

Each script asks for its own commands before its first write, the start check asks for all of them, and the least ACL in
the documentation is written from the same lists.
"""

import re
from collections.abc import Collection, Iterable

from service.store.connection.failovers import CHANNELS
from service.store.keyspace import DEFAULT_NAMESPACE, NAMES, NO_TENANT, keys_of

CLIENT_COMMANDS = (
    "DEL", "EXISTS", "EXPIRE", "GET", "HGETALL", "HINCRBY", "HMGET", "HSET", "MGET", "PERSIST", "PUBLISH", "SADD",
    "SCAN", "SET", "SMEMBERS", "SREM", "XINFO|STREAM", "XRANGE", "XREVRANGE", "ZADD", "ZCARD", "ZINCRBY",
    "ZREMRANGEBYRANK", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCAN",
)  # fmt: skip
"""Commands of the client beside the scripts (pages, the sweep, webhooks, charts). A test checks this."""
SERVICE_COMMANDS = (
    "FCALL", "FUNCTION|DELETE", "FUNCTION|LIST", "FUNCTION|LOAD", "INFO", "PING", "SUBSCRIBE",
)  # fmt: skip
"""Commands without a key: functions, the start check, pings, subscriptions. HELLO and AUTH need no right."""
KEYLESS = frozenset({"PUBLISH", "TIME"})
"""Commands of scripts that have no key."""
_READING = frozenset(
    {"EXISTS", "GET", "HGET", "HGETALL", "HMGET", "PTTL", "TIME", "XRANGE", "XREVRANGE", "ZRANGEBYSCORE", "ZSCORE"}
)
"""Commands that write nothing: a script with only these need not check its rights."""


def commands_of(texts: Iterable[str], function: str) -> list[str]:
    """Return the commands that a function may run: its own, and those of the functions that it calls.

    Args:
        texts: what the function is part of; functions begin at the left margin, as `local function NAME`.
        function: its name.
    """
    functions: dict[str, str] = {}
    for text in texts:
        functions |= _functions(text)
    reached: dict[str, str] = {}
    waiting = [function]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in functions:
            continue
        reached[name] = functions[name]
        waiting += re.findall(r"\b[a-z_]\w*\b", functions[name])
    return sorted({"TIME", *re.findall(r"\bp?call\('([A-Z]+)'", "\n".join(reached.values()))})


def writes(commands: Collection[str]) -> bool:
    """Return whether any of these commands writes or publishes."""
    return not _READING.issuperset(commands)


def _functions(text: str) -> dict[str, str]:
    """Return the functions of a text by name, without comments."""
    functions: dict[str, str] = {}
    inside = ""
    for line in text.splitlines():
        line = line.split("--")[0]
        begins = re.match(r"local function (\w+)", line)
        if begins:
            inside = begins[1]
            functions[inside] = ""
        if not inside:
            continue
        functions[inside] += f"{line}\n"
        if line.rstrip() == "end" or (begins and re.search(r"\bend\s*$", line)):
            inside = ""
    return functions


def questions(scripts: Iterable[Collection[str]]) -> list[tuple[str, ...]]:
    """Return what the start check asks about: each command once, with a key or channel of the service if it has one.

    Args:
        scripts: the commands of each.
    """
    sample = sample_key()
    asked: list[tuple[str, ...]] = [("TIME",), ("PING",), ("FCALL", "", "1", sample)]
    asked += [("FUNCTION", "LOAD", ""), ("FUNCTION", "LIST"), ("FUNCTION", "DELETE", "")]
    about_keys = {*CLIENT_COMMANDS, *(command for of in scripts for command in of)} - KEYLESS
    asked += [(*command.split("|"), sample) for command in sorted(about_keys)]
    # Keys of no tenant, each with the least command that is used on it.
    asked += [
        ("SADD", NAMES.tenants),
        ("SET", NAMES.sweeper),
        ("SET", NAMES.probe),
        ("GET", NAMES.windows),
        ("SET", NAMES.windows),
        ("SET", NAMES.adopted),
        ("ZADD", NAMES.sign_outs),
    ]
    for channel in (NAMES.event_channel, NAMES.cache_channel):
        asked += [("PUBLISH", channel), ("SUBSCRIBE", channel)]
    return asked


def sample_key() -> str:
    """Return a key in place of those of tenants; it is never written."""
    return f"{keys_of(NO_TENANT).tag}rights"


DEPLOYMENTS: dict[str, tuple[str, ...]] = {
    "single": (),
    "sentinel": (),
    "cluster": ("ASKING", "CLUSTER|SLOTS", "COMMAND"),
}
"""Kind of deployment → the further commands that its nodes get."""
SENTINEL_COMMANDS = (
    "PING", "PSUBSCRIBE", "SENTINEL|GET-MASTER-ADDR-BY-NAME", "SENTINEL|MYID", "SENTINEL|SENTINELS",
)  # fmt: skip
"""Commands for the Sentinels, which have users of their own."""


def least_acl(scripts: Iterable[Collection[str]], deployment: str, namespace: str = DEFAULT_NAMESPACE) -> list[str]:
    """Return the rules of the least ACL for the service's user on a server: keys, channels, commands.

    Args:
        scripts: the commands of each.
        deployment: one of `DEPLOYMENTS`.
        namespace: `redis.namespace`.
    """
    commands = {*SERVICE_COMMANDS, *CLIENT_COMMANDS, *DEPLOYMENTS[deployment], *(one for of in scripts for one in of)}
    return ["resetkeys", f"~{namespace}:*", "resetchannels", f"&{namespace}:*", "-@all", *_allowed(commands)]


def least_sentinel_acl() -> list[str]:
    """The same for the service's user on the Sentinels."""
    channels = [f"&{channel}" for channel in CHANNELS]
    return ["resetkeys", "resetchannels", *channels, "-@all", *_allowed(SENTINEL_COMMANDS)]


def _allowed(commands: Iterable[str]) -> list[str]:
    return [f"+{command.lower()}" for command in sorted(commands)]
