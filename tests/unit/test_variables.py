"""Settings by environment variables."""

import json
from pathlib import Path

import pytest

from service.config.loading import load
from service.core.tenants import digest
from tests.kit import config, tenant
from tests.unit.config_files import mistakes, write


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE__SERVER__PORT", "8081")
    monkeypatch.setenv("service__server__watch_config", "true")
    monkeypatch.setenv("SERVICE__SERVER__TRUSTED_PROXIES", '["10.0.0.0/8"]')
    monkeypatch.setenv("SERVICE__TENANTS__ACME__TOKEN", "another-token")
    settings = load(write(tmp_path, config(server={"port": 1, "host": "::1"})))
    assert (settings.server.port, settings.server.host, settings.server.watch_config) == (8081, "::1", True)
    assert [str(network) for network in settings.server.trusted_proxies] == ["10.0.0.0/8"]
    token = settings.tenants["acme"].token
    assert token is not None
    assert token.get_secret_value() == "another-token"


def test_a_map_or_list_in_a_variable_replaces_the_files_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE__TENANTS", json.dumps({"initech": tenant()}))
    monkeypatch.setenv("SERVICE__LIMITS__LOGOUT", "[]")
    settings = load(write(tmp_path, config(admin={"tokens": []})))
    assert list(settings.tenants) == ["initech"]
    assert settings.limits.logout == ()
    assert settings.limits.status[0].name == "status-ip"


@pytest.mark.parametrize(
    ("name", "tenant_name"),
    [
        ("SERVICE__TENANTS__A__B__TOKEN", "a__b"),
        ("SERVICE__TENANTS__A___TOKEN", "a_"),
        ("SERVICE__TENANTS___A__TOKEN", "_a"),
        ("SERVICE__TENANTS__JWT__TOKEN", "jwt"),
        ("SERVICE__TENANTS__A__TOKEN__TOKEN", "a__token"),
        ("SERVICE__TENANTS__A-B__TOKEN", "a-b"),
    ],
)
def test_a_variable_sets_a_tenant_whose_name_holds_underscores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tenant_name: str
) -> None:
    monkeypatch.setenv(name, "token-of-a-variable")
    made = load(write(tmp_path, config(tenants={tenant_name: tenant(), "a": tenant(token="token-of-a")})))
    assert made.tenants[tenant_name].digest == digest("token-of-a-variable")
    assert made.tenants["a"].digest == digest("token-of-a")


def test_a_variable_makes_a_tenant_whose_name_holds_underscores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE__TENANTS__A__B", json.dumps(tenant(token="token-of-a-b")))
    monkeypatch.setenv("SERVICE__TENANTS__C__D__TOKEN", "token-of-c-d")
    monkeypatch.setenv("SERVICE__TENANTS__C__D__JWT", json.dumps(tenant()["jwt"]))
    made = load(write(tmp_path, config()))
    assert sorted(made.tenants) == ["a__b", "acme", "c__d", "globex"]


def test_a_misspelt_variable_of_a_tenant_is_reported_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE__TENANTS__ACME__TOKN", "secret-that-nobody-may-see")
    [shown] = mistakes(write(tmp_path, config()))
    assert shown == (
        "tenants.acme.tokn (set by SERVICE__TENANTS__ACME__TOKN): there is no such setting; perhaps token is meant "
        "(value: ***)"
    )


@pytest.mark.parametrize("token", ["12345678", "0123", "true", "null", "1e5", "[1]", '{"a": 1}', "no"])
def test_text_in_a_variable_is_text_whatever_it_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SERVICE__TENANTS__ACME__TOKEN", token)
    assert load(write(tmp_path, config())).tenants["acme"].digest == digest(token)


def test_variables_that_set_the_same_and_json_that_holds_a_name_twice_are_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE__SERVER__PORT", "1")
    monkeypatch.setenv("service__server__port", "2")
    monkeypatch.setenv("SERVICE__SESSIONS", '{"retention": 1, "retention": 2}')
    shown = mistakes(write(tmp_path, config()))
    assert shown == [
        "server.port (set by SERVICE__SERVER__PORT): is set twice, by SERVICE__SERVER__PORT and service__server__port",
        "sessions (set by SERVICE__SESSIONS): its JSON has a name twice: retention",
    ]


def test_what_a_variable_replaces_is_no_mistake_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(config()).replace("{", '{"sessions": {retention: 030, retention: 1}, ', 1)
    assert len(mistakes(write(tmp_path, text))) == 2
    monkeypatch.setenv("SERVICE__SESSIONS__RETENTION", "5")
    assert load(write(tmp_path, text)).sessions.retention == 5
