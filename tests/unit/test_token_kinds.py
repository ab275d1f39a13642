"""Which tokens are meant: types that are registered for something else, security events, and what is required."""

import time
from typing import Any

import jwt
import pytest

from service.core.errors import InvalidUserToken
from service.core.tokens.claims import ClaimRules
from service.core.tokens.keys import make_key
from service.core.tokens.kinds import FOREIGN_TYPES, TokenRules, normalized_type
from service.core.tokens.verification import KeyRing, VerifiedTokens, Verifier
from service.demo_tokens import sign as sign_for
from service.policy_factory import make_policy
from tests.kit import settings, tenant

NOW = 1_800_000_000.0
SECRET = "s" * 32
ABSENT = object()


def ring(**rules: Any) -> KeyRing:
    return KeyRing("acme", [make_key("k", "HS256", SECRET)], ClaimRules("acme", rules=TokenRules(**rules)))


def token(typ: Any = "JWT", **claims: Any) -> str:
    header = {"kid": "k", "typ": None if typ is ABSENT else typ}  # PyJWT leaves out a type that is None
    return jwt.encode({"sub": "alice", "exp": NOW + 60, **claims}, SECRET, algorithm="HS256", headers=header)


def is_taken(by: Verifier, given: str) -> bool:
    try:
        return by.verify(given, NOW).user == "alice"
    except InvalidUserToken:
        return False


SPELLINGS = ["{}", "application/{}", "APPLICATION/{}", "Application/{} ", "{};v=1", "application/{} ; charset=utf-8"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("typ", sorted(FOREIGN_TYPES))
def test_a_type_that_is_registered_for_something_else_is_never_a_users_token(typ: str, spelling: str) -> None:
    for name in (typ, typ.upper(), typ.title()):
        assert not is_taken(ring(), token(spelling.format(name)))
        assert not is_taken(ring(types=[typ, "JWT"]), token(spelling.format(name))), "no setting admits it"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "JOSE", "vc+jwt", "my own", ABSENT])
def test_every_other_type_is_taken_where_no_types_are_configured(typ: Any) -> None:
    assert is_taken(ring(), token(typ))


@pytest.mark.parametrize("typ", [7, True, ["JWT"], {"a": 1}])
def test_a_type_that_is_no_text_is_malformed(typ: Any) -> None:
    with pytest.raises(InvalidUserToken):
        TokenRules().check_header({"typ": typ})


def test_a_null_type_counts_as_none() -> None:
    TokenRules().check_header({"typ": None})
    TokenRules(types=[None]).check_header({"typ": None})
    for typ in (None, ""):
        with pytest.raises(InvalidUserToken):
            TokenRules(types=["JWT"]).check_header({"typ": typ})


@pytest.mark.parametrize(
    ("types", "taken"),
    [
        (["at+jwt"], ["at+jwt", "AT+JWT", "application/at+jwt"]),
        (["application/AT+jwt"], ["at+jwt", "AT+JWT", "application/at+jwt"]),
        (["JWT", None], ["JWT", "jwt", ABSENT]),
        ([None], [ABSENT]),
    ],
)
def test_the_configured_types_are_taken_and_no_others(types: list[str | None], taken: list[Any]) -> None:
    tried = ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt", "x/at+jwt", "at", ABSENT]
    assert [typ for typ in tried if is_taken(ring(types=types), token(typ))] == [typ for typ in tried if typ in taken]


LOGOUT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.mark.parametrize(
    "events",
    [
        {LOGOUT: {}},
        {"https://schemas.openid.net/secevent/risc/event-type/account-disabled": {"subject": {}}},
        {"urn:ietf:params:event:SCIM:password": {}},
        {"login": 1, LOGOUT: {}},
        {f"{LOGOUT}#now": None},
    ],
)
@pytest.mark.parametrize("typ", ["JWT", "at+jwt", ABSENT])
def test_a_security_event_is_never_a_users_token_whatever_its_type(typ: Any, events: Any) -> None:
    assert not is_taken(ring(), token(typ, events=events))


@pytest.mark.parametrize("events", [{}, {"login": 1, "a b:c": 2, ":": 3, "7:x": 4, "/a": 5}, [LOGOUT], LOGOUT, 7, None])
def test_a_claim_of_an_application_that_is_called_events_is_no_security_event(events: Any) -> None:
    assert is_taken(ring(), token(events=events))


REQUIRED: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"token_use": ("access",)}, {"token_use": "access"}, True),
    ({"token_use": ("access",)}, {"token_use": "id"}, False),
    ({"token_use": ("access",)}, {"token_use": "ACCESS"}, False),
    ({"token_use": ("access",)}, {"token_use": None}, False),
    ({"token_use": ("access",)}, {"token_use": {"access": 1}}, False),
    ({"token_use": ("access",)}, {}, False),
    ({"client_id": ("a", "b")}, {"client_id": "b"}, True),
    ({"client_id": ("a", "b")}, {"client_id": "c"}, False),
    ({"groups": ("staff",)}, {"groups": ["guests", "staff"]}, True),
    ({"groups": ("staff", "root")}, {"groups": ["guests", "root"]}, True),
    ({"groups": ("staff",)}, {"groups": ["guests"]}, False),
    ({"groups": ("staff",)}, {"groups": [["staff"]]}, False),
    ({"groups": ("staff",)}, {"groups": []}, False),
    ({"scope": ("read",)}, {"scope": "read write"}, False),
    ({"email_verified": (True,)}, {"email_verified": True}, True),
    ({"email_verified": (True,)}, {"email_verified": 1}, False),
    ({"email_verified": (True,)}, {"email_verified": "true"}, False),
    ({"level": (1,)}, {"level": True}, False),
    ({"level": (1,)}, {"level": 1.0}, True),
    ({"level": (1,)}, {"level": "1"}, False),
    ({"token_use": ("access",), "client_id": ("a",)}, {"token_use": "access", "client_id": "a"}, True),
    ({"token_use": ("access",), "client_id": ("a",)}, {"token_use": "access"}, False),
]


@pytest.mark.parametrize(("require", "claims", "taken"), REQUIRED)
def test_each_required_claim_must_have_a_value_that_is_listed(
    require: dict[str, Any], claims: dict[str, Any], *, taken: bool
) -> None:
    assert is_taken(ring(require=require), token(**claims)) is taken


COGNITO = {"token_use": "access", "client_id": ["one", "another"]}


def jwt_section(**rules: Any) -> Any:
    keys = [{"kid": "k", "alg": "HS256", "secret": SECRET}]
    return settings(tenants={"acme": {**tenant(), "jwt": {"keys": keys, **rules}}})


def test_the_settings_come_to_the_key_ring() -> None:
    ring = make_policy(jwt_section(types=["at+jwt"], require=COGNITO)).directory.tenants["acme"].ring
    assert is_taken(ring, token("at+jwt", token_use="access", client_id="another"))
    assert not is_taken(ring, token("JWT", token_use="access", client_id="another"))
    assert not is_taken(ring, token("at+jwt", token_use="id", client_id="another"))
    assert not is_taken(ring, token("at+jwt", token_use="access", client_id="a third"))


@pytest.mark.parametrize("types", [["at+jwt"], [None], None])
def test_a_token_of_the_command_line_is_one_that_the_tenant_takes(types: Any) -> None:
    made = jwt_section(types=types, require=COGNITO)
    ring = make_policy(made).directory.tenants["acme"].ring
    assert ring.verify(sign_for(made, "acme", "alice", 60), time.time()).user == "alice"


@pytest.mark.parametrize("changed", [{"types": ["at+jwt"]}, {"require": COGNITO}])
def test_a_token_that_was_verified_before_a_reload_is_held_to_the_new_rules(changed: dict[str, Any]) -> None:
    verified, given = VerifiedTokens(), token("JWT")
    before, after = (make_policy(jwt_section(**rules)).directory.tenants["acme"].ring for rules in ({}, changed))
    assert verified.verify(before, given, NOW).user == "alice"
    with pytest.raises(InvalidUserToken):
        verified.verify(after, given, NOW)


@pytest.mark.parametrize(
    ("typ", "compared"),
    [("JWT", "jwt"), ("application/AT+JWT", "at+jwt"), ("text/plain", "text/plain"), (" a ;b=c", "a"), (";", "")],
)
def test_a_type_is_compared_as_a_media_type(typ: str, compared: str) -> None:
    assert normalized_type(typ) == compared
