"""Parsing of `redis.url`: the kind of deployment, its addresses and credentials."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

FORMS = (
    "embedded, redis://host:port, rediss://host:port, unix:///path, redis+sentinel://host:port,host:port/NAME "
    "or redis+cluster://host:port,host:port"
)
_DISTRIBUTED = re.compile(r"(?P<tls>rediss?)\+(?P<kind>sentinel|cluster)://(?P<rest>\S+)")
_SINGLE = re.compile(r"rediss?://[^/\s]+|unix:///\S+")
_NODE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::(?P<port>[0-9]{1,5}))?")
OPTIONS = frozenset({"db", "username", "password", "client_name"})
"""The options of redis-py that affect neither how answers are read nor the time-outs."""
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Address:
    """A deployment of Redis. Its repr shows no credentials."""

    kind: str
    """`single`, `sentinel` or `cluster`."""
    tls: bool
    nodes: tuple[tuple[str, int], ...] = ()
    """The Sentinels, or some nodes of the Cluster."""
    name: str = ""
    """What the Sentinels call the master."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Options for redis-py's connections: credentials, database, and those after `?`."""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """The Sentinels' own credentials."""

    @property
    def place(self) -> str:
        """The address of a single server without credentials: `host:port`, or the path of its socket."""
        host = str(self.options.get("host", "localhost"))
        host = f"[{host}]" if ":" in host else host
        return str(self.options.get("path") or f"{host}:{self.options.get('port', 6379)}")

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL of one of `FORMS`, except `embedded`.

        Raises:
            ValueError: the URL has another form, or lacks a part. The message does not quote it.
        """
        found = _DISTRIBUTED.fullmatch(url)
        if found is None:
            if _SINGLE.match(url) is None:
                raise ValueError(f"must be {FORMS}")
            return cls("single", url.startswith("rediss"), options=_single(url))
        kind = found["kind"]
        parts = urlsplit(f"//{found['rest']}")
        credentials, _, nodes = parts.netloc.rpartition("@")
        username, _, password = (unquote(part) for part in credentials.partition(":"))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        extra = {name: query.pop(f"sentinel_{name}", "") for name in ("username", "password")}
        path = parts.path.strip("/")
        if kind == "cluster" and path.isdigit():
            raise ValueError(f"a Cluster has one database, number 0: leave out /{path}")
        if query or (kind == "sentinel") != bool(path) or "/" in path or (kind == "cluster" and any(extra.values())):
            raise ValueError(_HALF)
        return cls(
            kind,
            found["tls"] == "rediss",
            nodes=tuple(_node(node, _DEFAULT_PORTS[kind]) for node in nodes.split(",")),
            name=path,
            options={name: value for name, value in (("username", username), ("password", password)) if value},
            sentinel_options={name: value for name, value in extra.items() if value},
        )


_HALF = "host, port or an option after ? is not what it should be"


def _single(url: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(url))
        _ = urlsplit(url).port
    except ValueError:  # its text may quote a password
        raise ValueError(_HALF) from None
    asked = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if asked - OPTIONS or options.get("db", 0) < 0:
        raise ValueError(f"{_HALF}; the options after ? are {', '.join(sorted(OPTIONS))}")
    return options


def _node(text: str, port: int) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    if found is None or int(found["port"] or port) > 65535:
        raise ValueError(_HALF)
    return found["host"].strip("[]"), int(found["port"] or port)
