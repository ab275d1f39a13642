"""Secrets and signatures of webhooks, held against the libraries that receivers use."""

import base64
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import standardwebhooks
import svix

from service.config.cross_checks import doubts
from service.core.webhooks import key_of, signed
from tests.kit import settings, tenant

OLD, NEW, OTHER = (
    "whsec_" + base64.b64encode(text).decode()
    for text in (b"the-old-secret-of-32-bytes-12345", b"the-new-secret-of-32-bytes-12345", b"\xff\xfe" * 16)
)
BODY = '{"type":"transition","data":{"userId":"zoë"}}'.encode()
Verify = Callable[[str, Mapping[str, str], bytes], None]


def by_standardwebhooks(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    standardwebhooks.Webhook(secret).verify(body.decode(), dict(headers))


def by_svix(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    svix.Webhook(secret).verify(body.decode(), dict(headers))


LIBRARIES = pytest.mark.parametrize("verify", [by_standardwebhooks, by_svix])
REFUSED = (standardwebhooks.WebhookVerificationError, svix.WebhookVerificationError)


def message(*secrets: str) -> Mapping[str, str]:
    return signed([key_of(one) for one in secrets], "acme.1-0", int(time.time()), BODY)


@LIBRARIES
@pytest.mark.parametrize("secret", [OLD, OTHER])
def test_the_libraries_accept_a_message_that_is_signed_with_their_secret(verify: Verify, secret: str) -> None:
    verify(secret, message(secret), BODY)
    with pytest.raises(REFUSED):
        verify(secret, message(secret), BODY + b" ")


@LIBRARIES
def test_during_a_rotation_the_libraries_accept_a_message_with_the_old_and_with_the_new_secret(verify: Verify) -> None:
    headers = message(NEW, OLD)
    verify(OLD, headers, BODY)
    verify(NEW, headers, BODY)
    with pytest.raises(REFUSED):
        verify(OTHER, headers, BODY)


def test_the_first_secret_signs_first() -> None:
    both, new, old = (message(*secrets)["webhook-signature"] for secrets in ((NEW, OLD), (NEW,), (OLD,)))
    assert both == f"{new} {old}"


@LIBRARIES
def test_a_secret_without_the_prefix_is_decoded_by_the_libraries_and_warned_about(verify: Verify) -> None:
    text = "a-text-that-is-the-secret-by-itself!"
    with pytest.raises((*REFUSED, ValueError)):
        verify(text, message(text), BODY)
    hook = {"name": "audit", "url": "https://example.org/", "secret": [NEW, text]}
    [warning] = doubts(settings(tenants={"acme": tenant(webhooks=[hook])}))
    assert warning.startswith("tenants.acme.webhooks.0.secret does not begin with whsec_")
    assert text not in warning


def test_a_secret_may_be_one_or_a_list() -> None:
    def keys(secret: Any) -> tuple[bytes, ...]:
        hook = {"name": "audit", "url": "https://example.org/", "secret": secret}
        made = settings(tenants={"acme": tenant(webhooks=[hook])})
        return made.tenants["acme"].webhooks[0].keys

    assert keys(NEW) == (key_of(NEW),)
    assert keys([NEW, OLD]) == (key_of(NEW), key_of(OLD))
    assert list(doubts(settings())) == []


SIMILAR = {
    f"v1,{NEW}": "from whsec_ on",
    f"v1a,{NEW}": "from whsec_ on",
    f"v1, {NEW}": "from whsec_ on",
    NEW.replace("whsec", "WHSEC"): "lower case",
    NEW.replace("whsec", "Whsec"): "lower case",
    NEW.replace("_", "-", 1): "underscore",
    f" {NEW}": "without white space or quotes",
    f'"{NEW}"': "without white space or quotes",
    f"{NEW} ": "must be base64",
    f"{NEW}\n": "must be base64",
    "whsec_" + base64.urlsafe_b64encode(b"\xff\xfe" * 16).decode(): "must be base64",
    NEW.rstrip("="): "must be base64",
    "whsec_é" + "x" * 32: "must be base64",
    "whsk_" + "x" * 32: "private key of an asymmetric signature",
    "WHSK_" + "x" * 32: "private key of an asymmetric signature",
    "whpk_" + "x" * 32: "public key of an asymmetric signature",
    "whsec_": "24 bytes",
    "short": "24 bytes",
}
"""What resembles a secret → what its refusal says."""


@pytest.mark.parametrize("secret", SIMILAR)
def test_what_only_resembles_a_secret_is_refused_with_what_to_write(secret: str) -> None:
    with pytest.raises(ValueError, match=SIMILAR[secret]):
        key_of(secret)


def test_any_other_text_is_the_key_itself() -> None:
    for text in ("x" * 24, "whsecret-that-only-begins-alike", "the whsec_ within a text of 24"):
        assert key_of(text) == text.encode()
