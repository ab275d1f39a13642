"""Arbitrary configurations are reported as mistakes, without secrets.

Whoever starts the service with a broken file reads what is wrong with it, in a terminal or a log that others read too.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from service.config.loading import ConfigurationError, load
from service.store.connection.client import RedisAccess, TlsFiles
from tests.fuzz.bounds import TIMEOUT_S, tried
from tests.kit import config, tenant

pytestmark = pytest.mark.timeout(TIMEOUT_S)
MARK = "nobody-may-see"
"""In every secret."""
_SECRET = f"secret-that-{MARK}-of-32-bytes!!"

WHOLE: dict[str, Any] = config(
    server={"trusted_proxies": ["10.0.0.0/8"], "cors_origins": ["https://a.example"], "workers": 1, "ipv6_prefix": 64},
    redis={"url": f"redis://user:{MARK}@localhost:6379/0", "timeout": 0.25, "tls": {"ca_file": None}},
    sessions={"seen_every": 60, "retention": 86400, "logout_grace": 0, "on_outage": "deny"},
    routes=[{"path": "/api/*", "methods": ["GET"], "capability": "api"}, {"path": "/*", "open": True}],
    metrics={"token": f"metrics-{MARK}"},
    tenants={
        "acme": tenant(
            _SECRET,
            f"token-{MARK}",
            restricted_capabilities=["pay"],
            limits={"logout": [{"name": "logout-user", "per": "user", "requests": 5, "window": 60, "shadow": True}]},
            webhooks=[{"name": "audit", "url": f"https://u:{MARK}@b.example/", "secret": _SECRET, "events": ["limit"]}],
        ),
        "globex": {
            "token_sha256": "ab" * 32,
            "jwt": {
                "jwks_url": f"https://c.example/?key={MARK}",
                "jwks_alg": "RS256",
                "issuer": "i",
                "audience": ["a"],
                "jwks_max_age": 3600,
                "types": ["at+jwt", None],
                "require": {"token_use": "access", "client_id": ["a", 1, True]},
            },
        },
    },
    admin={"tokens": [{"name": "root", "token": f"operator-{MARK}", "role": "operator", "tenants": ["*"]}]},
)
"""Nearly everything that can be set."""
SPELT = yaml.safe_dump(WHOLE)

STRANGE = """
x * / :: ::1 /dev/null /proc/self/mem redis:// redis://h:x redis+sentinel://h:1/N http://[ 1.2.3.4/33 none RS256 HS512
user tenant viewer GET 0 -1 . .. //x https:// cluster unix:///x whsec_x 0x1 1e3 -----BEGIN
"""
"""What is nearly right somewhere."""
ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from((None, True, False, 0, -1, 1, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", [], {})),
    st.sampled_from((*STRANGE.split(), "\x00", "a" * 5000)),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
        max_leaves=6,
    ),
)

WORDS = """
tenants: server: admin: redis: a: port: - { } [ ] , ' " | > --- ... ? # &a *a <<: = ~ %YAML !x !<y> !!set !!int !!float
!!bool !!timestamp !!binary !!omap !!pairs !!null !!str !!map !!seq !!python/tuple 2001-99-99 0x_ 0b_ 1:99 1e400 .nan
2001-12-14t21:59:43.10-99:99 .inf 0o7 1_000
"""
FRAGMENTS = st.sampled_from([*WORDS.split(), " ", "\n", "\n  ", "\n    ", ": ", "- ", "\t", "|\n", "---\n"])
YAML = st.lists(st.one_of(FRAGMENTS, FRAGMENTS.map(" {} ".format), st.text(max_size=5)), max_size=20).map("".join)


@pytest.fixture(autouse=True)
def _no_variables() -> Iterator[None]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("SERVICE__")}
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


def reported(path: Path, content: str | bytes) -> str:
    """Return the mistakes; empty: there are none. Any other exception, or a secret in a message, fails."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        load(path)
    except ConfigurationError as error:
        return str(error) if error.mistakes else "it says nothing"
    return ""


def names_in(content: Any) -> Collection[Any]:
    return content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in it."""
    for name in names_in(content):
        yield (*way, name)
        yield from places(content[name], (*way, name))


PLACES = list(places(WHOLE))
KEYS = ("tenants", "acme", "jwt", "keys")
CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(("set", "drop", "rename", "wrap", "add")), ODD),
    min_size=1,
    max_size=3,
)


def holder_of(way: tuple[Any, ...], content: Any) -> Any:
    """What holds the end of the way; None where an earlier change took that away."""
    for name in way[:-1]:
        content = content[name] if name in names_in(content) else None
    return content if way[-1] in names_in(content) else None


def changed(changes: list[tuple[tuple[Any, ...], str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(WHOLE))
    for way, how, value in changes:
        place, last = holder_of(way, made), way[-1]
        if place is None:
            continue
        if how == "set":
            place[last] = value
        elif how == "wrap":
            place[last] = [place[last]]
        elif how == "drop":
            del place[last]
        elif isinstance(place, list):
            place.append(place[last])
        else:
            place[f"{last}x" if how == "rename" else "added"] = place.pop(last) if how == "rename" else value
    return made


def test_the_whole_one_is_good(tmp_path: Path) -> None:
    assert reported(tmp_path / "config.yaml", json.dumps(WHOLE)) == ""
    assert reported(tmp_path / "config.yaml", SPELT) == ""


@tried()
@given(st.one_of(YAML, st.text(max_size=80), st.binary(max_size=80)))
@example("server: {port: 2001-99-99}")
@example("server: {port: 0x_}")
@example("server: {port: !!int x}")
@example("server: {port: !!float}")
@example("server: {port: !!bool x}")
@example("server: {port: !!timestamp x}")
@example("server: {port: " + "9" * 5000 + "}")
@example("server: &a {b: *a}")
def test_any_file_is_read_or_reported_as_mistakes(tmp_path: Path, content: str | bytes) -> None:
    reported(tmp_path / "config.yaml", content)


@tried()
@given(CHANGES, st.sampled_from((json.dumps, yaml.safe_dump)))
@example([(("routes", 0, "path"), "set", "api")], json.dumps)
@example([(("server", "trusted_proxies", 0), "set", True)], json.dumps)
@example([(KEYS, "set", MARK)], json.dumps)
@example([((*KEYS, 0), "set", {"alg": "RS256", "public_key_file": "/proc/self/mem"})], json.dumps)
def test_a_file_with_something_wrong_in_it_is_reported_without_its_secrets(
    tmp_path: Path, changes: list[tuple[tuple[Any, ...], str, Any]], spelt: Callable[[Any], str]
) -> None:
    assert MARK not in reported(tmp_path / "config.yaml", spelt(changed(changes)))


SLIPS = st.one_of(st.just(""), st.text(max_size=3), st.sampled_from((": ", "\n", "  ", "- ", "{", "'", "!", "&", "*")))


@tried()
@given(st.data())
def test_a_file_with_a_typing_error_is_read_or_reported_as_mistakes(tmp_path: Path, data: st.DataObject) -> None:
    text = SPELT
    for _ in range(data.draw(st.integers(1, 3))):
        at, gone = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(SLIPS) + text[at + gone :]
    reported(tmp_path / "config.yaml", text)


@tried()
@given(st.sampled_from((*"!*&%@`'\"{[>|#-?:", "!!", "!<", "! ", "*a ")), st.text(max_size=6))
@example("!", "")
@example("*", "")
def test_a_secret_that_is_not_yaml_is_not_shown(tmp_path: Path, before: str, after: str) -> None:
    """Somebody generated it, and did not think of quotes."""
    good = "jwt: {keys: [{alg: HS256, secret: a-secret-of-at-least-32-bytes-long}]}"
    text = f"tenants:\n  acme:\n    token: {before}{MARK}{after}\n    {good}\n"
    assert MARK not in reported(tmp_path / "config.yaml", text)


HOLD_SECRETS = """
TENANTS TENANTS__ACME TENANTS__ACME__TOKEN TENANTS__ACME__JWT TENANTS__ACME__JWT__KEYS TENANTS__NEW ADMIN ADMIN__TOKENS
METRICS METRICS__TOKEN REDIS REDIS__URL TENANTS__GLOBEX__JWT__JWKS_URL
"""
PARTS = st.sampled_from(("TENANTS", "acme", "SERVER", "PORT", "0", "", "JWT", "KEYS", "ADMIN", "x"))
NAMES = st.one_of(
    st.sampled_from(["__".join(map(str, way)).upper() for way in PLACES]),
    st.lists(PARTS, max_size=4).map("__".join),
    st.text(alphabet="ABCDEFSTR_", max_size=12),
)
VALUES = st.one_of(
    ODD.map(json.dumps), st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
)
SECTIONS = st.sampled_from(("token", "secret", "jwt", "keys", "url", "acme", "tokens", "webhooks"))
SECRETS = st.recursive(
    st.sampled_from((MARK, f"redis://{MARK}", f"https://{MARK}@x/")),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(SECTIONS, inner, max_size=2)),
).flatmap(lambda value: st.sampled_from((json.dumps(value), json.dumps(value)[:-1], str(value))))


@tried()
@given(
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.dictionaries(st.sampled_from(HOLD_SECRETS.split()), SECRETS, max_size=2),
)
def test_any_environment_is_accepted_or_reported_without_its_secrets(
    tmp_path: Path, variables: dict[str, str], secrets: dict[str, str]
) -> None:
    with mock.patch.dict(os.environ, {f"SERVICE__{name}": value for name, value in (variables | secrets).items()}):
        assert MARK not in reported(tmp_path / "config.yaml", json.dumps(WHOLE))


OPTIONS = """
db username password client_name protocol decode_responses encoding socket_timeout socket_keepalive retry retry_on_error
retry_on_timeout parser_class health_check_interval max_connections credential_provider driver_info timeout host port
path ssl_cert_reqs nonsense
"""


GIVEN = st.sampled_from(("0", "1", "3", "9", "x", "", "nan", "true", "-1"))


@tried()
@given(st.lists(st.tuples(st.sampled_from(OPTIONS.split()), GIVEN), min_size=1, max_size=2))
@example([("nonsense", "1")])
@example([("decode_responses", "1")])
@example([("retry", "x")])
def test_an_address_of_redis_that_is_accepted_leads_to_answers_as_they_are_read(
    tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    url = f"redis://127.0.0.1:1/?{urlencode(asked)}"
    if not reported(tmp_path / "config.yaml", json.dumps(config(redis={"url": url}))):
        made = RedisAccess.by_url(url, TlsFiles()).client.connection_pool.make_connection()
        assert not made.encoder.decode_responses, "they are read as bytes"
        assert int(made.protocol) == 2


@tried()
@given(ODD)
@example(True)
@example(10)
def test_only_text_is_a_network(tmp_path: Path, value: Any) -> None:
    """To Python 10 is an address. Whoever writes it means something else, and would trust 0.0.0.10."""
    accepted = not reported(tmp_path / "config.yaml", json.dumps(config(server={"trusted_proxies": [value]})))
    assert isinstance(value, str) or not accepted
