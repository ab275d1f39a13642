"""Tokens that somebody made up: each is refused, and leaves nothing behind of the user that it names."""

import base64
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from tests.attacks import raw_http as wire
from tests.attacks.conftest import Attack, Target, of, of_globex
from tests.attacks.forging import (
    EC,
    EC_ORDER,
    LATER,
    LONG_AGO,
    RSA,
    STRANGERS_RSA,
    YEAR_10000_S,
    bearer,
    claiming,
    claims,
    der,
    es,
    fixed,
    forge,
    header,
    hs,
    part,
    payload,
    pss,
    public,
    rs,
    sealed,
    twisted,
)
from tests.attacks.raw_http import Stranger
from tests.kit import OPERATOR_TOKEN, OTHER_SECRET, OTHER_TENANT_TOKEN, SECRET, TENANT_TOKEN, settings, sign, tenant

CHANGES: dict[str, Any] = {
    "limits": {"status": []},
    "tenants": {
        "acme": {
            "token": TENANT_TOKEN,
            "jwt": {
                "keys": [
                    {"kid": "k1", "alg": "HS256", "secret": SECRET},
                    {"kid": "r1", "alg": "RS256", "public_key": public(RSA).decode()},
                    {"kid": "e1", "alg": "ES256", "public_key": public(EC).decode()},
                ]
            },
        }
    },
}


GOOD = forge()
HEAD, BODY, SIGNATURE = GOOD.split(".")
PADDED = next(one for one in (claims(sub="mallory" + "!" * n) for n in range(3)) if len(part(one)) % 4)
CRITS: list[Any] = [["exp"], [], "exp", {}, None, [1], ["b64"], ["x"]]
TWICE = ('{"alg":"HS256","alg":"HS256","kid":"k1"}', '{"alg":"none","alg":"HS256","kid":"k1"}')

FORGED: dict[str, str] = {
    # --- no signature, and algorithms that are none ---
    **{f"alg {alg!a}, unsigned": forge(header(alg), signer=fixed(b"")) for alg in ("none", "None", "NONE", "nOnE", "")},
    **{f"alg {alg!a}, signed": forge(header(alg)) for alg in ("none", "None", "NONE", "nOnE", "", "hs256", " HS256")},
    "alg none without kid": forge(header("none", ...), signer=fixed(b"")),
    "alg none of the other keys' kid": forge(header("none", "r1"), signer=fixed(b"")),
    "alg missing": forge(header(...)),
    "alg missing, unsigned": forge(header(...), signer=fixed(b"")),
    **{f"alg {alg!a}": forge(header(alg)) for alg in (["HS256"], {"a": 1}, 256, True, None, "HS256\0", "HS512", "HS1")},
    "alg in cyrillic": forge(header("\u041dS256")),
    "alg of another name": forge({"\u0430lg": "HS256", "kid": "k1"}),
    # --- keys that are taken for other keys ---
    "RSA key (PEM) as HMAC secret": forge(header("HS256", "r1"), signer=hs(public(RSA))),
    "RSA key (PEM, no newline) as HMAC secret": forge(header("HS256", "r1"), signer=hs(public(RSA).strip())),
    "RSA key (DER) as HMAC secret": forge(header("HS256", "r1"), signer=hs(public(RSA, Encoding.DER))),
    "RSA key (PEM) as HMAC secret, no kid": forge(header("HS256", ...), signer=hs(public(RSA))),
    "RSA key (PEM) as HMAC secret of the HMAC key": forge(header("HS256", "k1"), signer=hs(public(RSA))),
    "EC key (PEM) as HMAC secret": forge(header("HS256", "e1"), signer=hs(public(EC))),
    "EC key (PEM, no newline) as HMAC secret": forge(header("HS256", "e1"), signer=hs(public(EC).strip())),
    "EC key (DER) as HMAC secret": forge(header("HS256", "e1"), signer=hs(public(EC, Encoding.DER))),
    "HS256 under the RSA key's kid": forge(header("HS256", "r1")),
    "RS256 under the HMAC key's kid": forge(header("RS256", "k1"), signer=rs()),
    "RS256 by a stranger": forge(header("RS256", "r1"), signer=rs(STRANGERS_RSA)),
    "RS256 by a stranger, no kid": forge(header("RS256", ...), signer=rs(STRANGERS_RSA)),
    "RS512 of an RS256 key": forge(header("RS512", "r1"), signer=rs(algorithm=hashes.SHA512())),
    "RS256 that is signed as RS512": forge(header("RS256", "r1"), signer=rs(algorithm=hashes.SHA512())),
    "RS256 that is signed as PS256": forge(header("RS256", "r1"), signer=pss),
    "PS256 of an RS256 key": forge(header("PS256", "r1"), signer=pss),
    "HS256 that is signed as HS512": forge(signer=hs(algorithm="sha512")),
    **{f"signed with {key!a}": forge(signer=hs(key)) for key in ("", "secret", "k1", TENANT_TOKEN, OPERATOR_TOKEN)},
    "signed with the other tenant's secret": forge(signer=hs(OTHER_SECRET)),
    "signed by the other tenant, no kid": forge(header(kid=...), signer=hs(OTHER_SECRET)),
    # --- what the same keys sign for something else (RFC 8725, sections 3.11 and 3.12) ---
    **{
        f"typ {typ}": forge(header(typ=typ))
        for typ in (
            *("logout+jwt", "secevent+jwt", "dpop+jwt", "token-introspection+jwt", "global-token-revocation+jwt"),
            *("application/logout+jwt", "LOGOUT+JWT", "application/secevent+JWT; v=1"),
        )
    },
    "a logout token without a type": claiming(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    # --- kid ---
    "kid ../../dev/null": forge(header(kid="../../../../dev/null"), signer=hs(b"")),
    "kid /proc/sys/kernel/ostype": forge(header(kid="/proc/sys/kernel/ostype"), signer=hs(b"Linux\n")),
    "kid in SQL": forge(header(kid="x' UNION SELECT 'secret'--"), signer=hs("secret")),
    "kid in shell": forge(header(kid="k1|/bin/true")),
    "kid with NUL": forge(header(kid="k1\0.pem")),
    "kid with a space": forge(header(kid="k1 ")),
    "kid in other letters": forge(header(kid="\uff4b1")),
    "kid in capitals": forge(header(kid="K1")),
    "kid of 4 kB": forge(header(kid="k1" * 2000)),
    **{f"kid {kid!a}": forge(header(kid=kid)) for kid in ("", 1, 1.0, True, {"k": 1}, ["k1"], None)},
    # --- extensions (RFC 7515 4.1.11, RFC 7797, RFC 7516) ---
    **{f"crit {crit!a}": forge(header(crit=crit)) for crit in CRITS},
    "b64 false": forge(header(b64=False)),
    "b64 false, and critical": forge(header(b64=False, crit=["b64"])),
    "b64 false, nothing signed": forge(header(b64=False, crit=["b64"]), b""),
    "zip DEF": forge(header(zip="DEF"), zlib.compress(json.dumps(claims()).encode())),
    "zip DEF bomb": forge(header(zip="DEF"), zlib.compress(b"0" * 4_000_000)),
    "nested token": forge(header(cty="JWT"), GOOD),
    "JWE": ".".join([part({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    "JSON serialisation": json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE}),
    # --- claims ---
    **{f"tenant {name!a}": claiming(tenant=name) for name in ("globex", "", "ACME", "acme ", "\uff41cme", "*", "acm")},
    **{f"tenant {name!a}": claiming(tenant=name) for name in (["acme"], {"acme": 1}, 0, False, True)},
    **{f"exp {exp!a}": claiming(exp=exp) for exp in (str(LATER), True, None, [LATER], {"at": LATER}, "", "never")},
    **{f"exp {exp!a}": claiming(exp=exp) for exp in (1e300, 10**30, YEAR_10000_S, -YEAR_10000_S, -1e300, LATER * 1000)},
    "exp missing": claiming(exp=...),
    **{f"exp {exp}": payload(f'{{"sub":"mallory","exp":{exp}}}') for exp in ("NaN", "Infinity", "-Infinity", "1e999")},
    **{
        f"exp {exp}": payload(f'{{"sub":"mallory","exp":{exp}}}')
        for exp in ("0x7fffffff", "+1", "01", f"{LATER}_0", "")
    },
    "exp of 5,000 digits": payload('{"sub":"mallory","exp":' + "9" * 5000 + "}"),
    **{f"nbf {when!a}": claiming(nbf=when) for when in (LATER, str(LONG_AGO), True, 1e300)},
    **{f"iat {when!a}": claiming(iat=when) for when in (LATER, str(LONG_AGO), True, 10**30)},
    **{f"sub {sub!a}": claiming(sub=sub) for sub in ("", {"id": 1}, ["mallory"], 7, 7.5, True, None)},
    **{
        f"sub {sub!a}": claiming(sub=sub) for sub in ("a\nb", "a\r\nb", "a\0b", "a\x1b[2J", "a\x7f", "a\x85", "a\ud800")
    },
    "sub missing": claiming(sub=...),
    "sub of 513 characters": claiming(sub="m" * 513),
    "sub of 513 characters in 2,052 bytes": forge(body=json.dumps(claims(sub="\U0001f642" * 513), ensure_ascii=False)),
    "sub of 5 kB": claiming(sub="m" * 5000),
    # --- JSON ---
    **{f"header {text}": forge(text) for text in TWICE},
    "sub twice": payload(f'{{"sub":"alice","sub":"mallory","exp":{LATER}}}'),
    "sub twice, once escaped": payload(f'{{"sub":"alice","s\\u0075b":"mallory","exp":{LATER}}}'),
    "exp twice": payload(f'{{"sub":"mallory","exp":{LONG_AGO},"exp":{LATER}}}'),
    "a member twice further in": payload(f'{{"sub":"mallory","exp":{LATER},"a":{{"b":1,"b":2}}}}'),
    "claims in a list": forge(body=[claims()]),
    **{f"claims {text}": payload(text) for text in ("null", "true", '"mallory"', "7", "{}", "", "{", "mallory")},
    "claims and more": payload(json.dumps(claims()) + "{}"),
    "claims with a trailing comma": payload(f'{{"sub":"mallory","exp":{LATER},}}'),
    "claims with a byte order mark": payload(b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
    "claims in UTF-16": payload(json.dumps(claims()).encode("utf-16")),
    "claims that are no UTF-8": payload(b'{"sub":"mallory\xff","exp":%d}' % LATER),
    "claims in overlong UTF-8": payload(b'{"sub":"mallory\xc0\xae","exp":%d}' % LATER),
    "10,000 levels of claims": payload("[" * 5000 + "]" * 5000),
    "as many levels as fit": payload('{"a":' * 1150),
    "as many closed levels as fit": payload('{"sub":"mallory","a":' + "[" * 2800 + "]" * 2800 + "}"),
    "header in a list": forge([header()]),
    **{f"header {text}": forge(text) for text in ("null", '"HS256"', "{}", "", "{", "mallory")},
    "header of 3,000 levels": forge("[" * 3000),
    # --- the three parts ---
    "a dot": ".",
    "two dots": "..",
    "1 part": HEAD,
    "2 parts": f"{HEAD}.{BODY}",
    "4 parts": f"{GOOD}.{SIGNATURE}",
    "signature stripped": f"{HEAD}.{BODY}.",
    "signature cut short": f"{HEAD}.{BODY}.{SIGNATURE[:-4]}",
    "signature of one byte": f"{HEAD}.{BODY}.AA",
    "signature of another token": f"{HEAD}.{part(claims(sub='alice'))}.{SIGNATURE}",
    "header of another token": f"{part(header('HS256', ...))}.{BODY}.{SIGNATURE}",
    "signature in hexadecimal": f"{HEAD}.{BODY}.{hs()(f'{HEAD}.{BODY}'.encode()).hex()}",
    "ES256 of zeros": forge(header("ES256", "e1"), signer=fixed(bytes(64))),
    "ES256 of nothing": forge(header("ES256", "e1"), signer=fixed(b"")),
    "ES256 in DER": forge(header("ES256", "e1"), signer=der),
    "ES256 with r and s of the order": forge(header("ES256", "e1"), signer=fixed(EC_ORDER.to_bytes(32, "big") * 2)),
    "ES256 with r beyond the order": forge(header("ES256", "e1"), signer=fixed(b"\xff" * 32 + b"\1" * 32)),
    "ES256 with r 0": forge(header("ES256", "e1"), signer=lambda content: bytes(32) + es(content)[32:]),
    "ES256 with a byte more": forge(header("ES256", "e1"), signer=lambda content: es(content) + b"\0"),
    "RS256 of zeros": forge(header("RS256", "r1"), signer=fixed(bytes(256))),
    "RS256 of 1": forge(header("RS256", "r1"), signer=fixed(bytes(255) + b"\1")),
    # --- base64 ---
    "padded": f"{GOOD}=",
    "padded claims": f"{HEAD}.{BODY}==.{SIGNATURE}",
    "bits too many in the signature": f"{HEAD}.{BODY}.{twisted(SIGNATURE)}",
    "bits too many in the claims": sealed(f"{HEAD}.{twisted(part(PADDED))}"),
    "bits too many in the header": sealed(f"{twisted(part(header(typ=...)))}.{BODY}"),
    "base64 that is not for URLs": forge(body=claims(sub="\u07ff?>")).replace("-", "+").replace("_", "/") + "+/",
    "a blank within": f"{HEAD}.{BODY[:8]} {BODY[8:]}.{SIGNATURE}",
    "a tab within": f"{HEAD}.{BODY[:8]}\t{BODY[8:]}.{SIGNATURE}",
    "percent-encoded": GOOD.replace(".", "%2E"),
    "a zero-width space": f"{GOOD}\u200b",
    "a full-width dot": GOOD.replace(".", "\uff0e"),
    "quoted": f'"{GOOD}"',
    "two tokens": f"{GOOD},{GOOD}",
    # --- time ---
    "expired forgery": forge(body=claims(exp=LONG_AGO), signer=hs(OTHER_SECRET)),
    "over 12 KiB": claiming(padding="x" * 9200),
}

OTHERWISE: dict[str, tuple[list[tuple[str, str]], int, str]] = {
    "expired": (of(claiming(exp=LONG_AGO)), 401, "EXPIRED_USER_TOKEN"),
    "exp before the epoch": (of(claiming(exp=-5)), 401, "EXPIRED_USER_TOKEN"),
    "exp 0": (of(claiming(exp=0)), 401, "EXPIRED_USER_TOKEN"),
    "at the other tenant": (of_globex(GOOD), 401, "INVALID_USER_TOKEN"),
    "tenant token cut short": (of(GOOD, TENANT_TOKEN[:-1]), 401, "INVALID_TENANT_TOKEN"),
    "tenant token in capitals": (of(GOOD, TENANT_TOKEN.upper()), 401, "INVALID_TENANT_TOKEN"),
    "tenant token that is no text": (of(GOOD, "\udcff\udcfe"), 401, "INVALID_TENANT_TOKEN"),
    "tenant's name for its token": (of(GOOD, "acme"), 401, "INVALID_TENANT_TOKEN"),
    "tenant token of blanks": (of(GOOD, "  "), 401, "MISSING_TENANT_TOKEN"),
    "forged x-token, good bearer": (
        [*of(forge(header("none"))), ("authorization", f"Bearer {GOOD}")], 401, "INVALID_USER_TOKEN",
    ),
    "x-token twice, the first forged": ([*of(forge(header("none"))), ("x-token", GOOD)], 401, "INVALID_USER_TOKEN"),
    "x-token twice, both good": ([*of(GOOD), ("x-token", claiming(sub="alice"))], 401, "INVALID_USER_TOKEN"),
    "two good tokens in two places": (
        [*of(GOOD), ("authorization", f"Bearer {claiming(sub='alice')}")], 401, "INVALID_USER_TOKEN",
    ),
    "two tenants' tokens": ([*of(GOOD), ("x-tenant-token", OTHER_TENANT_TOKEN)], 401, "INVALID_TENANT_TOKEN"),
    "DPoP": (bearer(f"DPoP {GOOD}"), 401, "INVALID_USER_TOKEN"),
    "Bearer twice": (bearer(f"Bearer Bearer {GOOD}"), 401, "INVALID_USER_TOKEN"),
    "Bearer with a tab": (bearer(f"Bearer\t{GOOD}"), 401, "MISSING_USER_TOKEN"),
    "Bearer without a blank": (bearer(f"Bearer{GOOD}"), 401, "MISSING_USER_TOKEN"),
    "Bearer in full width": (bearer(f"\uff22earer {GOOD}"), 401, "MISSING_USER_TOKEN"),
    "Bearer and a list": (bearer(f"Bearer {GOOD}, Bearer {GOOD}"), 401, "INVALID_USER_TOKEN"),
    "a no-break space before": (of(f"\u00a0{GOOD}"), 401, "INVALID_USER_TOKEN"),
    "a no-break space before, as bearer": (bearer(f"Bearer \u00a0{GOOD}"), 401, "INVALID_USER_TOKEN"),
    "Basic": (bearer(f"Basic {GOOD}"), 401, "MISSING_USER_TOKEN"),
    "Token": (bearer(f"Token {GOOD}"), 401, "MISSING_USER_TOKEN"),
    "in a cookie": ([*of("")[:1], ("cookie", f"x-token={GOOD}; token={GOOD}")], 401, "MISSING_USER_TOKEN"),
    "bytes that are no text": (of("\udcff\udcfe"), 401, "INVALID_USER_TOKEN"),
    "a line break within": (of(f"{HEAD}.{BODY}\n.{SIGNATURE}"), 400, ""),
    "a folded line": (of(f"{HEAD}.{BODY}\r\n .{SIGNATURE}"), 400, ""),
    "a carriage return within": (of(f"{HEAD}.{BODY}\r.{SIGNATURE}"), 400, ""),
    "NUL at the end": (of(f"{GOOD}\0"), 400, ""),
    "over all bounds": (of("a" * 17_000), 431, ""),
    "sub of 100 kB": (of(claiming(sub="m" * 100_000)), 431, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused_and_leaves_no_trace(target: Target, attack: Attack, name: str) -> None:
    answer = await target.ask(fields=of(FORGED[name]))
    attack(name, answer)
    assert (answer.status, answer.code) == (401, "INVALID_USER_TOKEN")
    assert await target.kept() == {}


@pytest.mark.parametrize("name", OTHERWISE)
async def test_a_token_that_is_sent_otherwise_is_refused_too(target: Target, attack: Attack, name: str) -> None:
    fields, status, code = OTHERWISE[name]
    answer = await target.ask(fields=fields)
    attack(name, answer)
    assert answer.status == status
    assert (answer.code if answer.body else "") == code, "what cannot be parsed as HTTP gets no body"
    assert await target.kept() == {}


async def test_a_token_in_the_address_is_none(target: Target, attack: Attack) -> None:
    for query in (f"x-token={GOOD}", f"token={GOOD}", f"access_token={GOOD}", f"jwt={GOOD}"):
        answer = await target.ask(target=f"/auth/status?{query}", fields=of("")[:1])
        attack(f"?{query.partition('=')[0]}=", answer)
        assert (answer.status, answer.code) == (401, "MISSING_USER_TOKEN")
    assert await target.kept() == {}


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    yield made
    made.close()


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c", "kid", "iss", "jku without kid"])
async def test_keys_that_a_token_brings_are_neither_used_nor_fetched(
    target: Target, attack: Attack, stranger: Stranger, name: str
) -> None:
    numbers = STRANGERS_RSA.public_key().public_numbers()
    e, n = (part(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.e, numbers.n))
    members: dict[str, dict[str, Any]] = {
        "jku": {"jku": stranger.url},
        "x5u": {"x5u": stranger.url},
        "jwk": {"jwk": {"kty": "RSA", "alg": "RS256", "use": "sig", "e": e, "n": n}},
        "x5c": {"x5c": [base64.b64encode(public(STRANGERS_RSA, Encoding.DER)).decode()]},
        "kid": {"kid": stranger.url},
        "iss": {},
        "jku without kid": {"kid": ..., "jku": stranger.url},
    }
    body = claims(iss=stranger.url if name == "iss" else ...)
    answer = await target.ask(
        fields=of(forge(header("RS256", **{"kid": "r1", **members[name]}), body, rs(STRANGERS_RSA)))
    )
    attack(f"{name} of a stranger", answer)
    assert (answer.status, answer.code) == (401, "INVALID_USER_TOKEN")
    assert stranger.asked == 0
    assert await target.kept() == {}


@pytest.mark.parametrize(
    "token",
    [
        GOOD,
        forge(header(kid=...)),
        forge(header("RS256", "r1"), signer=rs()),
        forge(header("ES256", "e1"), signer=es),
        claiming(exp=LATER + 0.5),
        claiming(exp=YEAR_10000_S - 1),
        claiming(sub="m" * 512, tenant="acme"),
        claiming(tenant=None),
        claiming(padding="x" * 8900),
        sign("mallory"),
    ],
)
async def test_nothing_of_that_is_refused_for_another_reason(target: Target, token: str) -> None:
    assert (await target.ask(fields=of(token))).status == 200
    for fields in (bearer(f"Bearer {token}"), bearer(f"bearer   {token}")):
        assert (await target.ask(fields=fields)).status == 200


SUBJECTS = [
    ":",
    "{",
    "}",
    "*",
    "?",
    "[a-z]*",
    "{globex}",
    "globex}:u:bob",
    "acme}:u:bob{",
    "u:bob",
    "rc:{globex}:u:bob",
]
SUBJECTS += [
    "..",
    "../bob",
    "%2e%2e",
    "events",
    "rules",
    "=status-ip",
    "<",
    "<*",
    "\u202ebob",
    "bob\u200b",
    "' OR 1=1--",
]


@pytest.mark.parametrize("sub", SUBJECTS)
async def test_a_name_of_separators_stays_within_its_key_and_its_tenant(
    target: Target, attack: Attack, sub: str
) -> None:
    assert (await target.ask(fields=of(sign("bob")))).status == 200
    before = await target.redis.get("rc:{acme}:u:bob")
    answer = await target.ask(fields=of(claiming(sub=sub)))
    attack(f"sub {sub!a}", f"{wire.described(answer)}, within its key")
    assert (answer.status, answer.data["userId"], answer.data["tenant"]) == (200, sub, "acme")
    assert {key for key in await target.keys() if ":u:" in key} == {"rc:{acme}:u:bob", f"rc:{{acme}}:u:{sub}"}
    assert all(key.startswith("rc:{acme}:") for key in await target.kept())
    assert await target.redis.get("rc:{acme}:u:bob") == before


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "password",
        "s" * 31,
        "\u00e9" * 15,
        public(RSA).decode(),
        public(EC).decode(),
        "ssh-rsa AAAAB3NzaC1yc2E= a@b.c",
    ],
)
def test_a_weak_or_public_secret_is_refused_at_the_start(attack: Attack, secret: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(tenants={"acme": tenant(secret)})
    attack(f"HMAC secret {secret[:30]!a}", "configuration refused")
    assert not secret or secret not in str(refused.value)
