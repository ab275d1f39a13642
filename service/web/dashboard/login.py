"""An operator's browser: the signed cookie, and the token that every form carries against CSRF.

The cookie is signed by a key that derives from the operators' tokens, so it means the same to every worker
and nothing once those tokens change. It holds no secret: the operator's name, and the form token.
"""

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from aiohttp import hdrs, web
from itsdangerous import BadData, URLSafeTimedSerializer

from service.core.errors import Forbidden
from service.web import app_keys
from service.web.dashboard.pages import ROOT
from service.web.policy import Operator, Policy
from service.web.server import http_server

COOKIE = "rollcall"
MAX_AGE_S = 12 * 3600
FORM_FIELD = "csrf"


@dataclass(frozen=True, slots=True)
class Browser:
    """What the cookie says."""

    form_token: str
    operator: Operator | None

    @property
    def session(self) -> str:
        """Identifies this login; it is no secret."""
        return hashlib.sha256(self.form_token.encode()).hexdigest()

    def gave(self, token: str) -> bool:
        """Whether `token` is the form token that this browser was given."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.form_token.encode())


def browser_of(request: web.Request) -> Browser | None:
    """Who the cookie names; None where there is none, or it is forged, or too old."""
    policy = request.app[app_keys.REQUEST_SERVICES].policy.current
    try:
        content = _signer(policy).loads(_cookie(request), max_age=MAX_AGE_S)
        name, form_token = content["operator"], content["form"]
    except (BadData, KeyError, TypeError, ValueError):  # forged, too old, or not even text
        return None
    operator = next((one for one in policy.operators if one.name == name), None)
    if name and operator is None:
        return None
    return Browser(form_token, operator)


def _cookie(request: web.Request) -> str:
    """The dashboard's cookie; empty where there is none, or several that differ.

    A site next door can set one of the same name for this one, and browsers say nothing of where a cookie is from.
    """
    # HTTP/2 may send the cookies in several fields, which a proxy need not have joined (RFC 9113, section 8.2.3).
    cookies = ";".join(request.headers.getall(hdrs.COOKIE, ())).split(";")
    values = {value for name, _, value in (one.strip().partition("=") for one in cookies) if name == COOKIE}
    return values.pop() if len(values) == 1 else ""


def remember(request: web.Request, response: web.StreamResponse, operator: Operator | None) -> str:
    """Give the browser a fresh cookie, and return its form token."""
    form_token = secrets.token_urlsafe(24)
    content = {"operator": operator.name if operator else "", "form": form_token}
    response.set_cookie(
        COOKIE,
        _signer(request.app[app_keys.REQUEST_SERVICES].policy.current).dumps(content),
        max_age=MAX_AGE_S,
        path=ROOT,
        httponly=True,
        samesite="Lax",
        # Whoever says so of himself only changes his own cookie.
        secure=request.secure or request.headers.getall("x-forwarded-proto", ()) == ["https"],
    )
    return form_token


def forget(response: web.StreamResponse) -> None:
    """Take the cookie away."""
    response.del_cookie(COOKIE, path=ROOT)


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form that was sent from a page of ours, in this browser.

    Raises:
        Forbidden: it was not.
        web.HTTPBadRequest: the body is not such a form.
    """
    if request.content_type != "application/x-www-form-urlencoded" or hdrs.CONTENT_ENCODING in request.headers:
        raise web.HTTPBadRequest
    if (request.charset or "utf-8").lower() != "utf-8":  # others decode to what no text is: lone surrogates
        raise web.HTTPBadRequest
    try:
        async with asyncio.timeout(http_server.BODY_DEADLINE_S):
            sent = await request.post()
    except (ValueError, web.RequestPayloadError, ConnectionError, TimeoutError) as error:
        raise web.HTTPBadRequest from error
    fields = {name: value for name, value in sent.items() if isinstance(value, str)}
    if len(fields) != len(sent):  # a field that is sent twice may be read in two ways
        raise web.HTTPBadRequest
    browser = browser_of(request)
    given = fields.get(FORM_FIELD, "")
    if browser is None or not is_own_page(request) or not browser.gave(given):
        raise Forbidden
    return fields


def is_own_page(request: web.Request) -> bool:
    """Whether the browser says that a page of ours sent this (Fetch Metadata); older browsers say nothing."""
    return {"same-origin", "none"}.issuperset(request.headers.getall("sec-fetch-site", ()))


def _signer(policy: Policy) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(policy.cookie_key, salt="rollcall-dashboard")
