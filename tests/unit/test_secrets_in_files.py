"""Tokens and secrets that are read from files of their own."""

from pathlib import Path

import pytest

from service.config.cross_checks import doubts
from service.config.loading import load
from service.core.tenants import digest
from service.policy_factory import make_policy, webhooks_of
from tests.kit import SECRET, config, tenant
from tests.unit.config_files import mistakes, write


def in_file(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_token_may_be_read_from_a_file_whose_last_newline_is_not_part_of_it(tmp_path: Path, end: str) -> None:
    operator = {"name": "root", "token_file": in_file(tmp_path, "b", f"operator{end}"), "tenants": ["*"]}
    acme = {**tenant(), "token_file": in_file(tmp_path, "a", f"tenant{end}")}
    del acme["token"]
    made = load(
        write(
            tmp_path,
            config(
                tenants={"acme": acme},
                admin={"tokens": [operator]},
                metrics={"token_file": in_file(tmp_path, "c", f"metrics{end}")},
                redis={"url_file": in_file(tmp_path, "d", f"redis://localhost:6379/1{end}")},
            ),
        )
    )
    policy = make_policy(made)
    assert [one.digest for one in (made.tenants["acme"], *made.admin.tokens)] == [digest("tenant"), digest("operator")]
    assert policy.metrics_token_digest == digest("metrics")
    assert made.redis.url == "redis://localhost:6379/1"
    assert "tenant" not in repr(made.tenants["acme"].token_file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("secret-that-nobody-may-see\n\n", "the content of the file ends with a newline"),
        (" secret-that-nobody-may-see", "the content of the file begins with white space"),
        ('"secret-that-nobody-may-see"\n', "the content of the file includes the quotes"),
        (b"\xef\xbb\xbfsecret-that-nobody-may-see", "an invisible character (U+FEFF)"),
        (b"secret-that-nobody-may-see\xff", "is not UTF-8 text"),
        ("secret-that-nobody-may-see" * 5000, "larger than 64 KiB"),
        ("\n", "the file is empty"),
        ("t" * 1025, "the file has more than 1024 characters"),
    ],
)
def test_a_token_file_that_holds_no_token_is_a_mistake(tmp_path: Path, content: str | bytes, words: str) -> None:
    name = in_file(tmp_path, "token", content)
    [shown] = mistakes(write(tmp_path, config(metrics={"token_file": name})))
    assert shown.startswith("metrics.token_file: ")
    assert words in shown
    assert "nobody-may-see" not in shown


def test_a_token_and_a_file_that_holds_it_exclude_each_other(tmp_path: Path) -> None:
    token = {"token": "a-token", "token_file": in_file(tmp_path, "token", "a-token")}
    assert mistakes(write(tmp_path, config(metrics=token))) == [
        "metrics: set token or token_file, not both (value: ***)"
    ]
    both = mistakes(write(tmp_path, config(tenants={"acme": {**tenant(), **token}})))
    assert both == ["tenants.acme: needs one of token, token_file and token_sha256 (value: ***)"]


def test_a_token_file_is_read_anew_when_the_configuration_is_loaded_again(tmp_path: Path) -> None:
    name = in_file(tmp_path, "token", "before")
    path = write(tmp_path, config(metrics={"token_file": name}))
    before = make_policy(load(path))
    in_file(tmp_path, "token", "after\n")
    assert (before.metrics_token_digest, make_policy(load(path)).metrics_token_digest) == (
        digest("before"),
        digest("after"),
    )


def test_a_signing_secrets_bytes_are_exact_and_what_is_hardly_meant_in_them_is_a_doubt(tmp_path: Path) -> None:
    secret = "a-webhook-secret-of-its-own-length"
    hooks = [
        {"name": "file", "url": "https://a.example/", "secret_file": in_file(tmp_path, "s", f"{secret}\n")},
        {"name": "text", "url": "https://a.example/", "secret": f'"{secret}"'},
    ]
    made = load(write(tmp_path, config(tenants={"acme": tenant(SECRET + " ", webhooks=hooks)})))
    assert [hook.keys for hook in webhooks_of(made)] == [(f"{secret}\n".encode(),), (f'"{secret}"'.encode(),)]
    key = made.tenants["acme"].issuers[0].keys[0].secret
    assert key is not None
    assert key.get_secret_value() == SECRET + " "
    assert [one for one in doubts(made) if "every byte" in one] == [
        "tenants.acme.jwt.keys.0.secret begins or ends with white space; every byte is part of the secret",
        "tenants.acme.webhooks.0.secret_file ends with a newline; every byte is part of the secret",
        "tenants.acme.webhooks.1.secret includes the quotes around it; every byte is part of the secret",
    ]
