"""Cookies that were made up, tokens that are guessed: nobody becomes an operator by them, however near."""

import base64
import hashlib
import hmac
import json
import time
import zlib
from typing import Any
from urllib.parse import urlencode

import pytest
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from service.core.tenants import digest
from service.web import app_keys
from service.web.dashboard.login import MAX_AGE_S
from tests.attacks.conftest import COOKIE, Attack, Launch, Target, of
from tests.attacks.operating import ADMIN, DASHBOARD, FORM, bearer, log_in, stranger, try_to_log_in, wishes
from tests.kit import OPERATOR_TOKEN, SECRET, TENANT_TOKEN, VIEWER_TOKEN, sign

METRICS_TOKEN = "token-of-the-metrics"
CHANGES: dict[str, Any] = {"limits": {"admin": [], "login": []}, "metrics": {"token": METRICS_TOKEN}}
SALT = "rollcall-dashboard"
ROOT = {"operator": "root", "form": "form-token"}


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(key: bytes | str, content: Any = ROOT, *, salt: str = SALT, ago_s: float = 0) -> str:
    """A cookie that is signed by this key, some time ago."""

    class Then(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - ago_s)

    return str(URLSafeTimedSerializer(key, salt=salt, signer=Then).dumps(content))


def made_up(viewers: str, logins: str, key: bytes) -> dict[str, str]:
    """Cookies of whoever would like to be root, and has a viewer's cookie, that of the login, and time."""
    _, stamp, signature = viewers.split(".")
    root = part(json.dumps(ROOT).encode())
    bomb = part(zlib.compress(b"[" * 8_000_000))
    return {
        "root under a viewer's signature": f"{root}.{stamp}.{signature}",
        "root under the login's signature": ".".join([root, *logins.split(".")[1:]]),
        "root without signature": f"{root}.{stamp}.",
        "root without separators": root,
        "root alone": "root",
        "root as JSON": json.dumps(ROOT),
        "root, the signature of none": f"{root}.{stamp}.{part(hmac.digest(b'', root.encode(), 'sha1'))}",
        **{f"root, signed with {secret!a}": signed(secret) for secret in ("", "secret", SALT, SECRET, TENANT_TOKEN)},
        "root, signed with an own token": signed(VIEWER_TOKEN),
        "root, signed with its digest": signed(digest(VIEWER_TOKEN)),
        "root, signed with its digest, stretched": signed(
            hashlib.scrypt(digest(VIEWER_TOKEN), salt=b"rollcall dashboard cookie", n=2**14, r=8, p=1)
        ),
        "a viewer's, stamped later": f"{viewers.split('.')[0]}.{part(b'0000')}.{signature}",
        "a viewer's, in capitals": viewers.upper(),
        "a viewer's, cut short": viewers[:-1],
        "a viewer's, and more": f"{viewers}A",
        "a bomb of zlib": f".{bomb}.{stamp}.{signature}",
        "8 kB": "A" * 8000,
        "dots": "." * 200,
        "no text": "\udcff\udcfe",
        # Of whoever has the key after all: what is signed is not yet good.
        "signed for something else": signed(key, salt="itsdangerous"),
        "of 13 hours ago": signed(key, ago_s=MAX_AGE_S + 3600),
        "of tomorrow": signed(key, ago_s=-86_400),
        "of an operator who is gone": signed(key, {**ROOT, "operator": "gone"}),
        "of an operator in capitals": signed(key, {**ROOT, "operator": "ROOT"}),
    }  # fmt: skip


async def test_a_cookie_that_was_made_up_is_nobodys(target: Target, attack: Attack) -> None:
    assert (await target.ask(fields=of(sign("alice")))).status == 200
    before = await target.kept()
    viewers, logins = (await log_in(target, VIEWER_TOKEN)).cookie, (await stranger(target)).cookie
    key = target.app[app_keys.REQUEST_SERVICES].policy.current.cookie_key
    for name, cookie in made_up(viewers, logins, key).items():
        fields = [("cookie", f"{COOKIE}={cookie}"), ("x-csrf-token", ROOT["form"]), ("sec-fetch-site", "same-origin")]
        acted = await target.ask("POST", f"{DASHBOARD}/tenants/acme/users/alice/suspend", fields)
        attack(name, acted)
        assert (acted.status, acted.code) == (401, "UNAUTHORIZED"), name
        page = await target.ask("GET", "/dashboard", fields)
        assert (page.status, page.headers["location"]) == (303, "/dashboard/login?next=/dashboard"), name
    assert await target.kept() == before


async def test_a_second_cookie_makes_nobody_more_than_he_is(target: Target, attack: Attack) -> None:
    viewers = (await log_in(target, VIEWER_TOKEN)).cookie
    forged = f"{part(json.dumps(ROOT).encode())}.{'.'.join(viewers.split('.')[1:])}"
    for name, cookies in {
        "forged first": f"{COOKIE}={forged}; {COOKIE}={viewers}",
        "forged last": f"{COOKIE}={viewers}; {COOKIE}={forged}",
        "forged between": f"{COOKIE}={viewers}; {COOKIE}={forged}; {COOKIE}={viewers}",
        "with attributes": f"{COOKIE}={viewers}; Path=/; Domain=x; operator=root",
        "quoted": f'{COOKIE}="{viewers}"; operator="root"',
    }.items():
        answer = await target.ask("GET", f"{DASHBOARD}/tenants/acme", [("cookie", cookies)])
        attack(f"two cookies, {name}", answer)
        assert answer.status in (401, 403)


async def test_two_cookies_that_differ_are_nobodys_and_one_that_is_repeated_is_good(
    target: Target, attack: Attack
) -> None:
    root, guest = (await log_in(target, OPERATOR_TOKEN)).cookie, (await log_in(target, VIEWER_TOKEN)).cookie
    tenants = f"{DASHBOARD}/tenants"
    for name, fields in {
        "in one field": [("cookie", f"{COOKIE}={guest}; {COOKIE}={root}")],
        "in two fields": [("cookie", f"{COOKIE}={guest}"), ("cookie", f"{COOKIE}={root}")],
        "in two fields, of another case": [("cookie", f"{COOKIE}={root}"), ("Cookie", f"a=b;{COOKIE}={guest}")],
        "one of them empty": [("cookie", f"{COOKIE}=; {COOKIE}={root}")],
    }.items():
        answer = await target.ask("GET", tenants, fields)
        attack(f"two operators' cookies, {name}", answer)
        assert answer.status == 401
    for cookies in ([f"{COOKIE}={root}; {COOKIE}={root}"], ["a=b", f"{COOKIE}={root}"]):
        fields = [("cookie", one) for one in cookies]
        assert (await target.ask("GET", tenants, fields)).status == 200


async def test_what_says_that_a_page_of_ours_acts_is_sent_once(target: Target, attack: Attack) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    suspend, json_body = f"{DASHBOARD}/tenants/acme/sessions/suspend", json.dumps({"users": ["alice"]}).encode()
    token = ("x-csrf-token", browser.csrf)
    for name, fields in {
        "two form tokens": [*browser.fields, ("x-csrf-token", "forged"), token],
        "a form token twice": [*browser.fields, token, token],
        "two sites": [*browser.acting(), ("sec-fetch-site", "cross-site")],
    }.items():
        answer = await target.ask("POST", suspend, fields, json_body)
        attack(name, answer)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
    assert (await target.ask("POST", suspend, browser.acting(), json_body)).status == 200
    at_login = await stranger(target)
    for field in ("token", "csrf", "next"):
        form = urlencode([("csrf", at_login.csrf), ("token", OPERATOR_TOKEN), ("next", ""), (field, "x")]).encode()
        answer = await target.ask("POST", "/dashboard/login", [*at_login.fields, FORM], form)
        attack(f"a form with two of {field}", answer)
        assert answer.status == 400
        assert "set-cookie" not in answer.headers


async def test_cookies_and_tokens_do_not_open_each_others_door(target: Target, attack: Attack) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    paths = [f"{ADMIN}/tenants", "//dashboard/../admin/v1/tenants", "/dashboard/../admin/v1/tenants"]
    paths += [
        "/dashboard/%2e%2e/admin/v1/tenants",
        "/admin/v1/tenants;/dashboard/",
        "/admin/v1/tenants#/dashboard/api/",
    ]
    for path in [*paths, "/admin%2fv1/tenants", "/dashboard/api/../../admin/v1/tenants", "/ADMIN/v1/tenants"]:
        answer = await target.ask("GET", path, browser.acting())
        attack(f"cookie at {path}", answer)
        assert answer.status in (400, 401, 404)
    for path in (
        f"{DASHBOARD}/tenants",
        "/admin/v1/../../dashboard/api/tenants",
        "/admin/v1/%2e%2e/dashboard/api/tenants",
    ):
        answer = await target.ask("GET", path, bearer(OPERATOR_TOKEN))
        attack(f"token at {path}", answer)
        assert answer.status in (400, 401, 404)
    page = await target.ask("GET", "/dashboard", bearer(OPERATOR_TOKEN))
    attack("token at /dashboard", page)
    assert page.status == 303


# --- guessing ------------------------------------------------------------------------------------------


def three(operation: str) -> dict[str, Any]:
    return {operation: [{"name": f"{operation}-three", "per": "ip", "requests": 3, "window": 3600}]}


async def test_whoever_guesses_at_the_login_is_refused_the_right_token_too(launch: Launch, attack: Attack) -> None:
    target = await launch(limits=three("login"))
    for number in range(3):
        answer = await try_to_log_in(target, f"guess {number}", [("x-forwarded-for", f"198.51.100.{number}")])
        attack(f"login, guess {number + 1}", answer)
        assert answer.status == 401
    for fields in ([], [("x-forwarded-for", "198.51.100.9")], [("forwarded", "for=198.51.100.9")]):
        answer = await try_to_log_in(target, OPERATOR_TOKEN, fields)
        attack("login, guess 4, the right one", answer)
        assert answer.status == 429
        assert "set-cookie" not in answer.headers
        assert 0 < int(answer.headers["retry-after"]) <= 3600


async def test_whoever_guesses_at_the_admin_api_is_refused_the_right_token_too(launch: Launch, attack: Attack) -> None:
    target = await launch(limits=three("admin"))
    browser = await log_in(target, OPERATOR_TOKEN)
    for number, path in enumerate([f"{ADMIN}/tenants", f"{ADMIN}/tenants/acme", f"{DASHBOARD}/tenants"]):
        answer = await target.ask("GET", path, bearer(f"guess {number}"))
        attack(f"{path}, guess {number + 1}", answer)
        assert answer.status == 401
    for root, fields in ((ADMIN, bearer(OPERATOR_TOKEN)), (DASHBOARD, browser.acting())):
        found = list(wishes(target, root))
        for wish in found:
            answer = await target.ask(wish.method, wish.path, [*fields, ("x-forwarded-for", "198.51.100.9")], wish.body)
            assert (answer.status, answer.code) == (429, "TOO_MANY_REQUESTS"), wish
        attack(f"{root}, guess 4, the right one", f"429 by all {len(found)} routes")


async def test_a_guess_is_compared_as_a_digest_with_all_there_are_however_near_it_is(
    target: Target, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def watched(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return one == other  # type: ignore[no-any-return]

    monkeypatch.setattr("hmac.compare_digest", watched)
    for path, token, known in ((f"{ADMIN}/tenants", OPERATOR_TOKEN, 4), ("/metrics", METRICS_TOKEN, 1)):
        for length in range(len(token)):
            compared.clear()
            assert (await target.ask("GET", path, bearer(token[:length]))).status == 401
            assert len(compared) == known
            assert {len(side) for pair in compared for side in pair} == {32}
        attack(f"{path}, letter by letter", f"401 to {len(token)} guesses, digests compared")


async def test_a_tenants_token_is_looked_up_by_its_digest_and_guesses_are_not_kept(
    target: Target, attack: Attack
) -> None:
    directory = target.app[app_keys.REQUEST_SERVICES].policy.current.directory
    assert {len(key) for key in directory._by_digest} == {32}
    kept = dict(directory._known)
    for length in range(1, len(TENANT_TOKEN)):
        answer = await target.ask(fields=of(sign(), TENANT_TOKEN[:length]))
        assert (answer.status, answer.code) == (401, "INVALID_TENANT_TOKEN")
    attack("tenant token, letter by letter", f"401 to {len(TENANT_TOKEN) - 1} guesses, digests looked up")
    assert directory._known == kept
