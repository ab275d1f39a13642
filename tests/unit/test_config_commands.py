"""`rollcall config` and `rollcall webhook`: a first file, the JSON Schema, a webhook's secret."""

import base64
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from jsonschema import Draft202012Validator

from service.__main__ import main
from service.config.cross_checks import SHIPPED_SECRETS, doubts
from service.config.initial_file import TENANT, webhook_secret
from service.config.loading import load
from service.demo_tokens import sign
from tests.kit import ROOT

SCHEMA = ROOT / "docs" / "reference" / "config.schema.json"
SHIPPED = [ROOT / "config.yaml", ROOT / "examples" / "rollcall.yaml", ROOT / "examples" / "middleware" / "config.yaml"]
Capture = pytest.CaptureFixture[str]


def test_config_init_writes_a_file_with_fresh_secrets_that_the_service_takes(tmp_path: Path, capsys: Capture) -> None:
    texts = []
    for name in ("one.yaml", "two.yaml"):
        path = tmp_path / name
        assert main(["config", "init", "--config", str(path)]) == 0
        assert f"rollcall --config {path}" in capsys.readouterr().out
        assert path.stat().st_mode & 0o777 == 0o600, "it holds secrets"
        settings = load(path)
        assert list(doubts(settings)) == []
        assert sign(settings, TENANT, "alice", 60)
        texts.append(path.read_text())
    secrets = [re.findall(r'(?:token|secret): "([^"]+)"', text) for text in texts]
    assert [len(one) for one in secrets] == [3, 3]
    assert len({*secrets[0], *secrets[1]}) == 6, "no two are alike"
    assert not SHIPPED_SECRETS & {*secrets[0], *secrets[1]}
    assert all(len(secret) >= 32 for secret in secrets[0])


def test_what_config_init_leaves_as_a_comment_is_valid_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    main(["config", "init", "--config", str(path)])
    text = path.read_text()
    optional = re.sub(r"^( *)# (?=trusted_proxies|jwks_url|issuer|audience)", r"\1", text, flags=re.M)
    path.write_text(re.sub(r"^      keys:.*\n        - .*\n", "", optional, flags=re.M))
    jwt = load(path).tenants[TENANT].issuers[0]
    assert (str(jwt.jwks_url), jwt.keys) == ("https://issuer.example/.well-known/jwks.json", ())


@pytest.mark.parametrize("kind", ["a file", "a folder", "a link to nothing"])
def test_config_init_leaves_what_is_there_as_it_is(tmp_path: Path, capsys: Capture, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "a file":
        path.write_text("mine")
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    assert main(["config", "init", "--config", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{path} exists and was not changed; name another file with --config FILE\n"
    if kind == "a file":
        assert path.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_config_init_says_why_it_cannot_write(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "nowhere" / "config.yaml"
    assert main(["config", "init", "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"{path} cannot be written: No such file or directory\n"


@pytest.mark.parametrize("words", [["config"], ["webhook"], ["config", "made-up"]])
def test_a_command_without_its_action_exits_2_and_names_the_actions(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: rollcall {words[0]}")
    assert ("init" if words[0] == "config" else "secret") in error


def test_config_schema_prints_the_schema_that_the_documentation_holds(capsys: Capture) -> None:
    assert main(["config", "schema"]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text(), "the settings have changed: make schema"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_of_a_shipped_file_names_the_schema_and_the_file_fits_it(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named is not None
    assert (path.parent / named[1]).resolve() == SCHEMA
    validator().validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("server", {"prot": 8080}),
        ("server", {"port": 65_536}),
        ("redis", {"timeout": 0}),
        ("sessions", {"on_outage": "maybe"}),
        ("tenants", {}),
        ("tenants", {"ACME": {"token": "t", "jwt": {"keys": [{"alg": "HS256"}]}}}),
        ("limits", {"logout": [{"name": "x", "per": "planet", "requests": 1, "window": 1}]}),
        ("nowhere", {}),
    ],
)
def test_the_schema_refuses_unknown_names_and_values_out_of_range(place: str, content: Any) -> None:
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert list(validator().iter_errors({**shipped, place: content}))


def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_webhook_secret_prints_a_new_secret_of_32_bytes(capsys: Capture) -> None:
    assert main(["webhook", "secret"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"whsec_\S+\n", printed)
    assert len(base64.b64decode(printed.strip()[6:], validate=True)) == 32
    assert printed.strip() != webhook_secret()


COMMANDS = ("serve", "check", "token", "repair", "forget", "backup", "restore", "config", "config init", "webhook")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_what_it_does_and_which_file_it_reads(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert not shown.split("\n\n")[1].startswith(("options", "positional")), "what it does"
    if command not in ("config", "webhook"):
        assert "default: config.yaml" in shown


@pytest.mark.parametrize(
    "words", [["--port", "9"], ["serve", "--host", "::"], ["serve", "my.yaml"], ["check", "my.yaml"]]
)
def test_an_option_that_is_a_setting_is_refused_with_where_settings_are(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "settings are in the file that --config names, or in variables such as" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["serve"], ["check", "--redis"], ["backup", "file"]])
def test_ctrl_c_ends_a_command_without_a_traceback(
    words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.command_line.run", Mock(side_effect=KeyboardInterrupt))
    assert main(words) == 130
    assert capsys.readouterr() == ("", "")
