"""Variables that would set nothing, values that stand for nothing, and what the commands make of them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.__main__ import main
from service.config.cross_checks import doubts
from service.config.loading import ConfigurationError, load
from service.demo_tokens import sign
from service.policy_factory import make_policy
from service.process.listeners import load_for
from tests.kit import OPERATOR_TOKEN, SECRET, config, tenant

Capture = pytest.CaptureFixture[str]
HIDDEN = "secret-that-nobody-may-see-anywhere"


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(content))
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as shown:
        load(path)
    return [str(mistake) for mistake in shown.value.mistakes]


def with_jwt(**values: Any) -> dict[str, Any]:
    made = tenant()
    return config(tenants={"acme": {**made, "jwt": {**made["jwt"], **values}}})


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("ADMIN__TOKENS__0__TOKEN", "admin.tokens is a list: set it as a whole, as JSON in SERVICE__ADMIN__TOKENS"),
        (
            "TENANTS__ACME__JWT__KEYS__0__SECRET",
            "tenants.acme.jwt.keys is a list: set it as a whole, as JSON in SERVICE__TENANTS__ACME__JWT__KEYS",
        ),
        ("SERVER__TRUSTED_PROXIES__0", "server.trusted_proxies is a list: set it as a whole, as JSON in "),
        ("LIMITS__LOGOUT__0__REQUESTS", "limits.logout is a list: set it as a whole, as JSON in "),
        ("SERVER__PORT__X", "server.port has no members"),
        ("TENANTS__ACME__TOKEN__FILE", "tenants.acme.token has no members"),
    ],
)
def test_a_variable_for_a_member_of_a_list_or_of_a_single_value_is_a_mistake_and_says_what_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    monkeypatch.setenv(f"SERVICE__{variable}", HIDDEN)
    path = write(tmp_path, config(server={"port": 1, "trusted_proxies": ["10.0.0.0/8"]}))
    [shown] = mistakes(path)
    place = variable.lower().replace("__", ".")
    assert shown.startswith(f"{place} (set by SERVICE__{variable}): {words}")
    assert HIDDEN not in shown


def test_a_variable_for_a_member_of_a_list_that_another_variable_sets_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE__ADMIN__TOKENS", "[]")
    monkeypatch.setenv("SERVICE__ADMIN__TOKENS__0__TOKEN", HIDDEN)
    [shown] = mistakes(write(tmp_path, config()))
    assert shown.startswith("admin.tokens.0.token (set by SERVICE__ADMIN__TOKENS__0__TOKEN): admin.tokens is a list")


@pytest.mark.parametrize(
    ("audience", "words"),
    [
        ("", "tenants.acme.jwt.audience: must have at least 1 character"),
        (["api", ""], "tenants.acme.jwt.audience.1: must have at least 1 character"),
        ([], "tenants.acme.jwt.audience: an empty list names no audience: leave audience out"),
    ],
)
def test_an_audience_that_is_empty_neither_refuses_every_token_nor_accepts_any(
    tmp_path: Path, audience: Any, words: str
) -> None:
    assert any(one.startswith(words) for one in mistakes(write(tmp_path, with_jwt(audience=audience))))


def test_a_token_that_is_empty_is_reported_as_text_and_not_as_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE__METRICS__TOKEN", "")
    [shown] = mistakes(write(tmp_path, config()))
    assert shown == "metrics.token (set by SERVICE__METRICS__TOKEN): must have at least 1 character (value: ***)"


def test_a_signing_secret_of_other_bytes_than_text_is_reported_with_where_to_put_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(bytes(range(200, 240)))
    [shown] = mistakes(write(tmp_path, with_jwt(keys=[{"secret_file": str(file)}])))
    assert "the file is not UTF-8 text: write other bytes in Base64" in shown
    assert "secret_base64_file" in shown


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_demo_token_is_signed_with_an_algorithm_that_the_tenant_accepts(tmp_path: Path, algorithm: str) -> None:
    content = with_jwt(keys=[{"kid": "k", "secret": SECRET * 2}], algorithms=[algorithm])
    settings = load(write(tmp_path, content))
    ring = make_policy(settings).directory.tenants["acme"].ring
    assert ring.verify(sign(settings, "acme", "alice", 60), time.time()).user == "alice"


@pytest.mark.parametrize("words", [["chekc"], ["help", "chekc"]])
def test_an_unknown_command_exits_2_and_names_the_commands(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "invalid choice: 'chekc'" in printed.err
    assert all(command in printed.err for command in ("serve", "check", "token", "restore", "webhook"))


def test_files_for_tls_beside_a_url_without_it_are_a_doubt(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(trustme.CA().cert_pem.bytes())
    tls, sentence = {"ca_file": str(ca)}, "redis.tls is set, but redis.url does not begin with rediss"
    for url, expected in (("redis://localhost:1", 1), ("rediss://localhost:1", 0), ("rediss+cluster://localhost:1", 0)):
        made = load(write(tmp_path, config(redis={"url": url, "tls": tls})))
        assert sum(one.startswith(sentence) for one in doubts(made)) == expected, url


def test_a_token_of_the_metrics_that_is_an_operators_is_a_doubt(tmp_path: Path) -> None:
    for token, expected in ((OPERATOR_TOKEN, 1), ("token-of-the-metrics", 0)):
        made = load(write(tmp_path, config(metrics={"token": token})))
        assert sum("metrics.token is also an operator's" in one for one in doubts(made)) == expected


@pytest.mark.parametrize("name", ["a*", "Acme", "a{b}", "?", "", "a" * 65])
def test_forget_takes_only_what_a_tenant_can_be_called(tmp_path: Path, capsys: Capture, name: str) -> None:
    path = write(tmp_path, config(redis={"url": "redis://127.0.0.1:1"}))
    assert main(["forget", name, "--config", str(path)]) == 2
    assert f"{name!r} is no tenant's name: that has 1 to 64 characters" in capsys.readouterr().err


def test_public_secrets_are_a_mistake_where_others_reach_what_is_listened_on_whatever_the_file_says(
    tmp_path: Path,
) -> None:
    made = tenant()
    path = write(tmp_path, config(tenants={"acme": {**made, "token": "demo-tenant-token"}}))
    assert load(path).server.host == "127.0.0.1"
    assert load_for(path, ()) == load(path)
    with pytest.raises(ConfigurationError, match=r"listens on 0\.0\.0\.0:80: with the secrets of the shipped"):
        load_for(path, ("0.0.0.0:80",))
    assert load_for(write(tmp_path, config()), ("0.0.0.0:80",)).tenants.keys() == {"acme", "globex"}
