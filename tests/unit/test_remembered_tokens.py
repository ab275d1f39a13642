"""What is remembered of tokens: verified tokens until their expiry, and the headers that a signature proved."""

from contextlib import suppress
from typing import Any

import jwt
import pytest

from service.core.errors import DomainError, ExpiredUserToken, InvalidUserToken, UnknownKey
from service.core.tokens import verification
from service.core.tokens.compact import header_of
from service.core.tokens.keys import make_key
from service.core.tokens.verification import KeyRing, VerifiedTokens
from tests.unit.signing import GOOD, NOW, SIGNATURE, key, ring, sign


def test_a_header_is_read_once_for_all_tokens_that_its_issuer_signs_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ring(key("HS256"), key("RS256", "r"))
    tokens = [sign(jti=str(number)) for number in range(3)]
    assert own.verify(tokens[0], NOW).user == "alice"
    monkeypatch.setattr(verification, "header_of", lambda _: pytest.fail("the header was read again"))
    for token in tokens:
        assert own.verify(token, NOW).user == "alice"


def test_a_remembered_header_makes_no_signature_good() -> None:
    own = ring()
    assert own.verify(GOOD, NOW).user == "alice"
    forged = sign(sub="mallory").rpartition(".")[0]
    with pytest.raises(InvalidUserToken):
        own.verify(f"{forged}.{SIGNATURE}", NOW)


def test_a_remembered_header_is_checked_with_the_other_keys_of_its_algorithm_too() -> None:
    own = ring(key("HS256", "a"), make_key("b", "HS256", "o" * 32))
    assert own.verify(sign(headers={}), NOW).user == "alice"
    other = jwt.encode({"sub": "bob", "exp": NOW + 60}, "o" * 32, algorithm="HS256")
    assert own.verify(other, NOW).user == "bob"
    assert own.verify(sign(headers={}), NOW).user == "alice"


def test_a_remembered_header_goes_with_the_key_that_proved_it() -> None:
    own = KeyRing("acme", [])
    own.replace_remote([key("RS256")])
    assert own.verify(sign("RS256"), NOW).user == "alice"
    own.replace_remote([])
    with pytest.raises(UnknownKey):
        own.verify(sign("RS256"), NOW)


def test_only_short_headers_that_a_signature_proved_are_remembered_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(verification, "MAX_HEADERS", 2)

    def counted(raw: bytes) -> dict[str, Any]:
        read.append(raw)
        return header_of(raw)

    monkeypatch.setattr(verification, "header_of", counted)
    own = ring()

    def times_read(token: str) -> int:
        read.clear()
        for _ in range(2):
            with suppress(InvalidUserToken):
                own.verify(token, NOW)
        return len(read)

    assert times_read(sign()) == 1
    assert times_read(sign().rpartition(".")[0] + ".AAAA") == 2, "the signature is forged"
    assert times_read(sign(headers={"kid": "k", "x": "x" * 1024})) == 2, "it is long"
    for number in range(3):
        assert times_read(sign(headers={"kid": "k", "x": number})) == 1
    assert times_read(sign()) == 1, "more came since than are remembered"


def test_a_verified_token_is_remembered_until_its_expiry() -> None:
    verified, own = VerifiedTokens(), ring()
    token = sign()
    first = verified.verify(own, token, NOW)
    assert verified.verify(own, token, NOW + 59) is first
    with pytest.raises(ExpiredUserToken):
        verified.verify(own, token, NOW + 60)


def test_a_token_that_has_expired_since_it_was_verified_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verified, own, token = VerifiedTokens(), ring(), sign()
    verified.verify(own, token, NOW)
    monkeypatch.setattr(KeyRing, "verify", lambda *_: pytest.fail("a signature costs more than a request"))
    with pytest.raises(ExpiredUserToken):
        verified.verify(own, token, NOW + 60)


def test_a_key_that_is_removed_takes_its_tokens_with_it() -> None:
    verified, own = VerifiedTokens(), KeyRing("acme", [])
    own.replace_remote([key("HS256")])
    token = sign()
    assert verified.verify(own, token, NOW).user == "alice"
    own.replace_remote([make_key("another", "HS256", "o" * 32)])
    with pytest.raises(InvalidUserToken):
        verified.verify(own, token, NOW)


def test_what_one_tenant_verified_is_not_good_for_another() -> None:
    verified, token = VerifiedTokens(), sign(tenant="acme")
    assert verified.verify(ring(), token, NOW).tenant == "acme"
    with pytest.raises(InvalidUserToken):
        verified.verify(KeyRing("globex", [key("HS256")]), token, NOW)


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    tokens = [sign(sub=f"user{i}") for i in range(5)]
    verified, own = VerifiedTokens(max_chars=len(tokens[0]) * 3), ring()
    for token in tokens:
        verified.verify(own, token, NOW)
    assert len(verified) == 3


def test_nothing_that_failed_is_remembered() -> None:
    verified = VerifiedTokens()
    with pytest.raises(DomainError):
        verified.verify(ring(), "a.b.c", NOW)
    assert len(verified) == 0
