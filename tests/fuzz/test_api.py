"""Operators' requests with arbitrary content: done or refused, and never an error of the service."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from tests.conftest import Client, MakeClient
from tests.fuzz.bounds import TIMEOUT_S, tried
from tests.fuzz.conftest import LIMITS
from tests.kit import OPERATOR, credentials
from tests.web.dashboard_pages import log_in

pytestmark = [pytest.mark.real_redis, pytest.mark.timeout(TIMEOUT_S)]
on_a_real_redis = pytest.mark.parametrize("access", ["real"], indirect=True)
AT = "/admin/v1/tenants/acme"

ANY: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("\ud800"), st.just("u1")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
MOMENTS = st.one_of(
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    st.sampled_from(
        ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "1969-12-31T23:59:59Z", "now", 0)
    ),
    ANY,
)
WHOLE_NUMBERS = st.one_of(st.sampled_from((1, 10**7, 10**7 + 1, 31 * 86400, 0, -1, 1.0, "1", True, 10**400)), ANY)
USERS = st.one_of(st.text(max_size=140), st.sampled_from(("u1", "u2", "\x00", "a" * 129)))
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "reason": st.fixed_dictionaries({}, optional={"reason": ANY, "x": ANY}),
    "act": st.fixed_dictionaries({}, optional={"reason": st.text(max_size=600), "everywhere": ANY}),
    "many": st.fixed_dictionaries(
        {"users": st.one_of(st.lists(USERS, max_size=5), ANY)}, optional={"everywhere": st.booleans()}
    ),
    "restrict": st.fixed_dictionaries({}, optional={"until": MOMENTS, "reason": st.text(max_size=20)}),
    "revoke": st.fixed_dictionaries({}, optional={"before": MOMENTS}),
    "limit": st.fixed_dictionaries({"requests": WHOLE_NUMBERS, "window": WHOLE_NUMBERS}),
    "reset": st.fixed_dictionaries({"subject": st.one_of(USERS, ANY)}),
}
OPERATIONS = [
    *(("POST", f"{AT}/sessions/{act}", "many") for act in ("logout", "suspend", "reinstate", "terminate")),
    *(("POST", f"{AT}/users/USER/{act}", "act") for act in ("logout", "suspend", "reinstate", "terminate")),
    ("DELETE", f"{AT}/users/USER", "reason"),
    *(("PUT", f"{AT}/{whose}restrictions/pay", "restrict") for whose in ("", "users/USER/")),
    *(("DELETE", f"{AT}/{whose}restrictions/pay", "reason") for whose in ("", "users/USER/")),
    *(("PUT", f"{AT}/{whose}revocation", "revoke") for whose in ("", "users/USER/")),
    *(("DELETE", f"{AT}/{whose}revocation", "reason") for whose in ("", "users/USER/")),
    ("PUT", f"{AT}/limits/status-ip", "limit"),
    ("DELETE", f"{AT}/limits/status-ip", "reason"),
    ("POST", f"{AT}/limits/status-ip/reset", "reset"),
]
QUERIES = {
    f"{AT}/sessions": ("status", "user", "prefix", "after", "limit", "x"),
    f"{AT}/limits/status-ip": ("subject", "x"),
    f"{AT}/users/u1": ("x",),
    AT: ("tenant",),
    f"{AT}/activity": ("x",),
}
PAGES = {
    "/dashboard": ("tenant", "status", "user", "exact", "after", "x"),
    "/dashboard/user": ("tenant", "user"),
    "/dashboard/rules": ("tenant", "subject"),
    "/dashboard/login": ("next",),
}
GIVEN = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ("acme", "logged_in", "none", "u1", "1", "500", "501", "-1", "1.u1", "999999999999999.u", "9" * 16 + ".u")
    ),
    st.from_regex(r"\d{1,15}\..{0,5}", fullmatch=True),
)


@pytest.fixture
async def client(make_client: MakeClient) -> Client:
    """With limits that let everything through, and users that something can be done to."""
    generous = {one: [{"name": f"{one}-ip", "per": "ip", "requests": 10**7, "window": 60}] for one in LIMITS}
    made = await make_client(limits=generous)
    for user in ("u1", "u2", "u3"):
        await made.get("/auth/status", headers=credentials(user))
    return made


def unchanged(path: str) -> Any:
    """Sent without being normalised."""
    return URL(path, encoded=True)


async def check_envelope_and_status(answer: ClientResponse) -> None:
    """It is an envelope, and no failure."""
    content = await answer.json()
    assert answer.status < 500, content
    assert set(content) == {"meta", "data" if answer.status < 400 else "error"}
    if answer.status == 400:
        assert content["error"]["code"] == "VALIDATION_ERROR"
        assert all(set(one) == {"field", "message"} for one in content["error"]["validation"])


@on_a_real_redis
@tried(2)
@given(st.sampled_from(OPERATIONS), USERS, st.data())
async def test_any_body_is_done_or_refused(
    client: Client, operation: tuple[str, str, str], user: str, data: st.DataObject
) -> None:
    method, path, kind = operation
    raw = data.draw(
        st.one_of(st.one_of(BODIES[kind], BODIES[kind], ANY).map(json.dumps).map(str.encode), st.binary(max_size=40))
    )
    path = path.replace("USER", quote(user, safe="") if user not in ("", ".", "..") else "u1")
    answer = await client.request(method, unchanged(path), data=raw, headers=OPERATOR)
    await check_envelope_and_status(answer)


@on_a_real_redis
@tried()
@given(st.sampled_from(sorted(QUERIES)), st.data())
async def test_any_query_is_answered_or_refused(client: Client, path: str, data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.tuples(st.sampled_from(QUERIES[path]), GIVEN), max_size=4))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked)
    await check_envelope_and_status(await client.get(unchanged(f"{path}?{query}"), headers=OPERATOR))


@on_a_real_redis
@tried()
@given(st.sampled_from(sorted(PAGES)), st.data())
async def test_whatever_is_asked_of_a_page_it_is_shown_or_refused(
    client: Client, path: str, data: st.DataObject
) -> None:
    if not client.session.cookie_jar.filter_cookies(client.make_url("/dashboard")):
        assert (await log_in(client)).status == 303
    asked = data.draw(st.lists(st.tuples(st.sampled_from(PAGES[path]), GIVEN), max_size=4))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked)
    answer = await client.get(unchanged(f"{path}?{query}"), allow_redirects=False)
    page = await answer.text()
    assert answer.status in (200, 303, 400, 404), page
    if answer.status == 303:
        assert answer.headers["location"].startswith("/dashboard")


async def _next_event(answer: ClientResponse) -> bytes:
    """The next event of a stream that has an id: not the gap that it begins with."""
    while b"\r\nid: " not in (reported := await answer.content.readuntil(b"\r\n\r\n")):
        assert b"event: gap" in reported, reported
    return reported


@on_a_real_redis
@tried(0.3)
@given(
    st.one_of(
        st.from_regex(r"\d{1,16}-\d{1,20}", fullmatch=True),
        st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), max_size=30),
    )
)
@example("\u0661-\u0661")
@example("0-0")
@example("999999999999999-9999999999999999999")
async def test_any_last_event_id_continues_the_stream_or_is_refused(client: Client, last: str) -> None:
    path = "/admin/v1/events?tenant=acme"
    answer = await client.get(path, headers=OPERATOR | {"last-event-id": last})
    if answer.status != 200:
        await check_envelope_and_status(answer)
        return
    reported = await _next_event(answer)
    await client.post(f"{AT}/users/u1/logout", headers=OPERATOR)
    await client.post(f"{AT}/users/u1/reinstate", headers=OPERATOR)
    await client.get("/auth/status", headers=credentials("u1"))  # something happens, in any case
    reported += await _next_event(answer)
    answer.close()
    assert b"event: ready\r\n" in reported
    assert b"HTTP/1." not in reported
