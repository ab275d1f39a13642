"""Sessions of operators in a browser: the signed cookie, and the form token that protects against CSRF.

The key that signs the cookie derives from the operators' tokens. So every worker accepts the cookie, and no worker does
once those tokens change. The cookie holds no secret: the operator's name, and the form token.
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
from service.web.dashboard.pages import ROOT, public
from service.web.policy import Operator, Policy
from service.web.server import http_server

MAX_AGE_S = 12 * 3600
FORM_FIELD = "csrf"


@dataclass(frozen=True, slots=True)
class Browser:
    """The content of the cookie."""

    form_token: str
    operator: Operator | None

    @property
    def session(self) -> str:
        """Identifies this login; it is no secret."""
        return hashlib.sha256(self.form_token.encode()).hexdigest()

    def gave(self, token: str) -> bool:
        """Return whether `token` is the form token of this browser."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.form_token.encode())


def browser_of(request: web.Request) -> Browser | None:
    """Return what the cookie holds; None if there is no cookie, or it is forged or too old."""
    policy = request.app[app_keys.REQUEST_SERVICES].policy.current
    try:
        content = _signer(policy).loads(_cookie(request, policy.cookie_name), max_age=MAX_AGE_S)
        name, form_token = content["operator"], content["form"]
    except (BadData, KeyError, TypeError, ValueError):  # forged, too old, or not even text
        return None
    operator = next((one for one in policy.operators if one.name == name), None)
    if name and operator is None:
        return None
    return Browser(form_token, operator)


def _cookie(request: web.Request, wanted: str) -> str:
    """Return the value of the dashboard's cookie; empty if there is none, or several that differ.

    A neighbouring site can set a cookie of the same name for this site, and a browser does not send where it came from.
    """
    # HTTP/2 may send the cookies in several fields, which a proxy need not have joined (RFC 9113, section 8.2.3).
    cookies = ";".join(request.headers.getall(hdrs.COOKIE, ())).split(";")
    values = {value for name, _, value in (one.strip().partition("=") for one in cookies) if name == wanted}
    return values.pop() if len(values) == 1 else ""


def remember(request: web.Request, response: web.StreamResponse, operator: Operator | None) -> str:
    """Set a new cookie, and return its form token."""
    form_token = secrets.token_urlsafe(24)
    content = {"operator": operator.name if operator else "", "form": form_token}
    policy = request.app[app_keys.REQUEST_SERVICES].policy.current
    response.set_cookie(
        policy.cookie_name,
        _signer(policy).dumps(content),
        max_age=MAX_AGE_S,
        path=public(request, ROOT),
        httponly=True,
        samesite="Lax",
        # A client that sends this header itself changes only its own cookie.
        secure=request.secure or request.headers.getall("x-forwarded-proto", ()) == ["https"],
    )
    return form_token


def forget(request: web.Request, response: web.StreamResponse) -> None:
    """Remove the cookie."""
    name = request.app[app_keys.REQUEST_SERVICES].policy.current.cookie_name
    response.del_cookie(name, path=public(request, ROOT))


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form that a page of the dashboard sent from this browser.

    Raises:
        Forbidden: the form token is wrong, or another site sent the form.
        web.HTTPBadRequest: the body is not a form.
    """
    if request.content_type != "application/x-www-form-urlencoded" or hdrs.CONTENT_ENCODING in request.headers:
        raise web.HTTPBadRequest
    if (request.charset or "utf-8").lower() != "utf-8":  # other encodings can decode to lone surrogates
        raise web.HTTPBadRequest
    try:
        async with asyncio.timeout(http_server.BODY_DEADLINE_S):
            sent = await request.post()
    except (ValueError, web.RequestPayloadError, ConnectionError, TimeoutError) as error:
        raise web.HTTPBadRequest from error
    fields = {name: value for name, value in sent.items() if isinstance(value, str)}
    if len(fields) != len(sent):  # a file, or a field that is sent twice
        raise web.HTTPBadRequest
    browser = browser_of(request)
    given = fields.get(FORM_FIELD, "")
    if browser is None or not is_own_page(request) or not browser.gave(given):
        raise Forbidden
    return fields


def is_own_page(request: web.Request) -> bool:
    """Return whether a page of this site sent the request (Fetch Metadata). Older browsers do not send the header."""
    return {"same-origin", "none"}.issuperset(request.headers.getall("sec-fetch-site", ()))


def _signer(policy: Policy) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(policy.cookie_key, salt="rollcall-dashboard")
