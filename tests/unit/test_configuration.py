"""The configuration: every broken file is reported by its defect, and no report shows a secret."""

import hashlib
import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from service.config.cross_checks import doubts, is_loopback
from service.config.loading import ConfigurationError, load
from service.policy_factory import make_policy
from tests.fuzz.test_configuration import PLACES, WHOLE
from tests.kit import OPERATOR_TOKEN, ROOT, SECRET, TENANT_TOKEN, config, settings, tenant
from tests.unit.config_files import SHIPPED, mistakes, write

BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))


def test_the_shipped_configuration_is_good() -> None:
    settings = load(ROOT / "config.yaml")
    assert (settings.server.host, settings.redis.url) == ("127.0.0.1", "embedded")
    assert list(settings.tenants) == ["demo"]


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_file_is_reported_by_its_defect(path: Path) -> None:
    expected = re.findall(r"^# expect: (.*)$", path.read_text(), re.MULTILINE)
    shown = mistakes(path)
    assert len(shown) == len(expected), shown
    for line in expected:
        assert any(line in one for one in shown), f"{line!r} is not among {shown}"
    assert not any("secret-that-nobody-may-see" in one for one in shown)


def test_there_are_broken_files() -> None:
    assert len(BROKEN) >= 25


def test_all_mistakes_are_reported_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE__REDIS__TIMEOUT", "soon")
    monkeypatch.setenv("SERVICE__TENANTS__GLOBEX", '{"token": "secret-that-nobody-may-see"')
    monkeypatch.setenv("SERVICE__NOWHERE", "1")
    shown = mistakes(write(tmp_path, config(server={"port": 0.5, "prot": 1}, sessions={"on_outage": "maybe"})))
    assert {one.partition(":")[0] for one in shown} == {
        "SERVICE__NOWHERE",
        "server.port",
        "server.prot",
        "sessions.on_outage",
        "redis.timeout (set by SERVICE__REDIS__TIMEOUT)",
        "tenants.globex (set by SERVICE__TENANTS__GLOBEX)",
    }
    assert not any("secret-that-nobody-may-see" in one for one in shown)


def test_a_secret_is_not_shown_in_a_check_between_sections_nor_one_of_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = config(admin={"tokens": [{"name": "root", "token": OPERATOR_TOKEN, "tenants": [TENANT_TOKEN]}]})
    [shown] = mistakes(write(tmp_path, wrong))
    assert shown == "admin.tokens.0.tenants: names a tenant that is not configured (value: ***)"
    tokens = [{"name": "root", "token": "secret-of-a-variable", "role": "secret-of-a-variable", "tenants": ["*"]}]
    monkeypatch.setenv("SERVICE__ADMIN__TOKENS", json.dumps(tokens))
    [shown] = mistakes(write(tmp_path, config()))
    assert "secret-of-a-variable" not in shown
    assert shown.startswith("admin.tokens.0.role (set by SERVICE__ADMIN__TOKENS): must be 'viewer' or 'operator'")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_seen_by_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_everything_else_is_public(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("secret", SHIPPED)
def test_shipped_secrets_are_good_for_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    shipped = (ROOT / "config.yaml").read_text().replace("127.0.0.1", "0.0.0.0")
    assert (
        "server.host: with the secrets of the shipped config.yaml only loopback is served"
        in mistakes(write(tmp_path, shipped))[0]
    )
    own = shipped
    for other in SHIPPED:
        if other != secret:
            own = own.replace(other, "own-" + other[5:] + "-of-our-very-own")
    assert len(mistakes(write(tmp_path, own))) == 1
    load(write(tmp_path, own.replace(secret, "own-secret-that-is-long-enough-for-hs256")))
    monkeypatch.setenv("SERVICE__SERVER__HOST", "192.168.1.1")
    assert "192.168.1.1" in mistakes(ROOT / "config.yaml")[0]


def test_what_is_probably_not_intended_is_reported_as_a_doubt() -> None:
    routes = [{"path": "/api/*", "capability": "api"}]
    shown = list(doubts(settings(routes=routes, tenants={"acme": tenant(restricted_capabilities=["logout", "apo"])})))
    assert shown == [
        "routes are configured, but server.trusted_proxies is empty: /auth/verify answers 400",
        "tenants.acme.restricted_capabilities: no operation and no route needs apo",
    ]
    assert not list(doubts(settings(routes=routes, server={"trusted_proxies": ["127.0.0.1"]})))
    assert not list(doubts(settings()))
    assert list(doubts(settings(tenants={"initech": tenant(token="short")}))) == [
        "tenants.initech.token has fewer than 16 characters: short enough to be guessed"
    ]


@pytest.mark.parametrize("rule", [{}, {"issuer": "https://a"}, {"audience": "a"}, {"require": {"token_use": "id"}}])
def test_a_key_set_from_a_url_without_a_rule_for_which_tokens_are_meant_is_a_doubt(rule: dict[str, Any]) -> None:
    remote = {"jwks_url": "https://a.example/jwks", **rule}
    shown = list(doubts(settings(tenants={"acme": {**tenant(), "jwt": remote}})))
    assert len(shown) == (not rule)
    assert all(one.startswith("tenants.acme.jwt: ") and "none of issuer, audience and require" in one for one in shown)


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    settings = load(write(tmp_path, config()))
    assert SECRET not in repr(settings)
    assert SECRET not in repr(make_policy(settings))


def test_the_cookie_key_follows_the_operators_tokens(tmp_path: Path) -> None:
    one = make_policy(load(write(tmp_path, config())))
    same = make_policy(load(write(tmp_path, config())))
    other = make_policy(load(write(tmp_path, config(admin={"tokens": []}))))
    assert one.cookie_key == same.cookie_key != other.cookie_key


def test_a_tenants_limit_replaces_the_one_of_its_name_and_adds_others(tmp_path: Path) -> None:
    own = {
        "logout": [
            {"name": "logout-ip", "per": "ip", "requests": 5, "window": 60},
            {"name": "logout-user", "per": "user", "requests": 2, "window": 60},
        ]
    }
    policy = make_policy(load(write(tmp_path, config(tenants={"acme": tenant(limits=own)}))))
    limits = policy.directory.tenants["acme"].terms["logout"].limits
    assert [(limit.name, limit.requests) for limit in limits] == [("logout-ip", 5), ("logout-user", 2)]
    assert [limit.requests for limit in policy.directory.terms["logout"].limits] == [30]


def test_a_missing_file_is_reported_with_the_command_that_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "none.yaml"
    assert mistakes(path) == [
        f"file: does not exist; `rollcall config init --config {path}` writes one (value: {path})"
    ]
    monkeypatch.chdir(tmp_path)
    [reported] = mistakes(Path("config.yaml"))
    assert "`rollcall config init` writes one" in reported


def test_shipped_secrets_are_found_however_they_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = ROOT / "config.yaml"
    monkeypatch.setenv("SERVICE__SERVER", '{"host": "0.0.0.0"}')
    assert mistakes(shipped)[0].startswith("server.host (set by SERVICE__SERVER): with the secrets of the shipped")
    monkeypatch.setenv("SERVICE__TENANTS", json.dumps({"initech": tenant()}))
    monkeypatch.setenv("SERVICE__ADMIN", "{}")
    assert load(shipped).server.host == "0.0.0.0", "they are all replaced"
    sha256 = hashlib.sha256(b"demo-tenant-token").hexdigest()
    hidden = tenant()
    del hidden["token"]
    monkeypatch.setenv("SERVICE__TENANTS", json.dumps({"initech": hidden | {"token_sha256": sha256}}))
    assert mistakes(shipped)[0].startswith("server.host")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVICE__ADMIN__TOKENS", "my-very-secret"),
        ("SERVICE__ADMIN__TOKENS", '["my-very-secret"]'),
        ("SERVICE__ADMIN", "my-very-secret"),
        ("SERVICE__METRICS", "my-very-secret"),
        ("SERVICE__TENANTS__ACME__JWT__KEYS", "my-very-secret"),
        ("SERVICE__TENANTS", '{"acme": "my-very-secret"}'),
        ("SERVICE__TENANTS", '{"acme": {"tokn": "my-very-secret"}}'),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    shown = mistakes(write(tmp_path, config()))
    assert shown
    assert "my-very-secret" not in "\n".join(shown)


def test_a_value_that_can_be_no_secret_is_shown(tmp_path: Path) -> None:
    shown = mistakes(write(tmp_path, config(server={"prot": 8081, "port": "x"})))
    assert sorted(one.rpartition("(value: ")[2] for one in shown) == ["'x')", "8081)"]


def test_yaml_merge_keys_are_understood(tmp_path: Path) -> None:
    text = """
tenants:
  a: &a {token: t, jwt: &jwt {keys: [{alg: HS256, secret: a-secret-of-at-least-32-bytes-long}]}}
  b: {<<: *a, token: u}
"""
    settings = load(write(tmp_path, text))
    assert settings.tenants["b"].jwt == settings.tenants["a"].jwt


ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**30,
    float("inf"),
    "x",
    "",
    " ",
    [],
    {},
    [None],
    ["x"],
    {"x": 1},
    [{"x": 1}],
)
THEIR_WORDS = re.compile(
    r"Input|Value|[Ss]hould|pydantic|instance|tuple|dict\b|NoneType|SecretStr|\bstr\b|unicode|parse|function|Error"
)


def test_every_mistake_is_reported_in_plain_words_with_the_path_of_the_file(tmp_path: Path) -> None:
    """Of every setting, set to every odd value."""
    for place in PLACES:
        for value in ODD_VALUES:
            changed = json.loads(json.dumps(WHOLE))
            holder: Any = reduce(lambda at, name: at[name], place[:-1], changed)
            holder[place[-1]] = value
            try:
                load(write(tmp_path, json.dumps(changed)))
            except ConfigurationError as error:
                found = list(map(str, error.mistakes))
            else:
                continue
            for shown in found:
                assert not THEIR_WORDS.search(shown.partition(" (value: ")[0]), shown
                path = shown.partition(": ")[0].split(".")
                assert path[0] in changed or path == ["the configuration"], shown
