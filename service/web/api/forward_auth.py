"""Forward authentication at `/auth/verify`, with a profile for each proxy.

Proxies differ in the fields with the original request, and in what they do with an answer. The service reads the fields
only from a peer in `server.trusted_proxies`.
"""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import web
from multidict import istr

from service.core.admission import Admission
from service.core.errors import UnreadableRequest
from service.core.text.timestamps import timestamp
from service.core.tokens.claims import Identity
from service.web import app_keys
from service.web.api import vary
from service.web.api.client_address import ClientAddressRules, is_proxy
from service.web.api.credentials import sent_more_than_once
from service.web.api.envelope import DONE, success_of
from service.web.server.request_head import AnyRequest
from service.web.server.responses import AnyResponse, ApiResponse, line

PREFER = istr("prefer")
UPGRADE = istr("upgrade")
ROOT = "/auth/verify"
NGINX = f"{ROOT}/nginx"
ENVOY = f"{ROOT}/envoy"

ADMITTED = "x-auth-admitted: 1\r\n"
"""The header line of an admission, on an open route too. No other answer of the service has it.

The status alone does not show who answered: something else at that address may answer 200, too.
"""

_USUAL = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_METHOD = re.compile(r"[A-Z][A-Z_-]{0,31}")
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_AS_IT_IS = re.compile(f"[{re.escape(_VISIBLE)}]+")


@dataclass(frozen=True, slots=True)
class OriginalFields:
    """The original request in two header fields, each set by the proxy, and sent once (`check_repeated`)."""

    method: istr
    target: istr

    def __call__(self, request: AnyRequest) -> tuple[str, str]:
        """Return the method and the target.

        Raises:
            UnreadableRequest: it is not there.
        """
        method, target = request.headers.get(self.method), request.headers.get(self.target)
        if method is None or target is None:
            missing = self.method if method is None else self.target
            raise UnreadableRequest(f"{missing} is not sent: the proxy has to set it")
        return method, target

    @property
    def names(self) -> tuple[str, str]:
        """The names of both fields."""
        return self.method, self.target


ORIGINAL = OriginalFields(istr("x-original-method"), istr("x-original-uri"))
FORWARDED = OriginalFields(istr("x-forwarded-method"), istr("x-forwarded-uri"))


def either(request: AnyRequest) -> tuple[str, str]:
    """Read either pair of fields, for an unknown proxy. If both are sent and differ, one comes from the client."""
    found = [one(request) for one in (ORIGINAL, FORWARDED) if {one.method, one.target} & request.headers.keys()]
    if not found:
        raise UnreadableRequest("neither X-Original-Method and -URI nor X-Forwarded-Method and -Uri are sent")
    if found[0] != found[-1]:
        raise UnreadableRequest("X-Original-… and X-Forwarded-… differ: clear the pair that is not in use")
    return found[0]


def from_caddy(request: AnyRequest) -> tuple[str, str]:
    """Read the fields that Caddy sets. A WebSocket handshake over HTTP/2 or HTTP/3 is a GET.

    There it is a CONNECT with `:protocol` (RFC 8441, RFC 9220). Caddy reports that method, with `Upgrade: websocket`,
    and sends the API the GET of HTTP/1.1.
    """
    method, target = FORWARDED(request)
    if method == "CONNECT" and [value.lower() for value in request.headers.getall(UPGRADE, ())] == ["websocket"]:
        return "GET", target
    return method, target


def the_rest(request: AnyRequest) -> tuple[str, str]:
    """Read the request's own method, and the target after the prefix (Envoy's `path_prefix`).

    Raises:
        UnreadableRequest: the target does not follow our prefix as it is written.
    """
    if not request.raw_path.startswith(ENVOY):  # in absolute form, or with an encoded prefix
        raise UnreadableRequest(f"the path of the request does not begin with {ENVOY}")
    return request.method, request.raw_path[len(ENVOY) :] or "/"


def from_a_proxy(read: Callable[[AnyRequest], tuple[str, str]]) -> app_keys.Original:
    """Return `read` with a check that the peer is a trusted proxy."""

    def original(request: AnyRequest, rules: ClientAddressRules) -> tuple[str, str]:
        if not is_proxy(request.remote, rules):
            raise UnreadableRequest("the peer is not one of server.trusted_proxies")
        method, target = read(request)
        if method not in _USUAL and not _METHOD.fullmatch(method):
            raise UnreadableRequest("the original method is not a method")
        return method, target

    return original


def check_repeated(repeated: AbstractSet[str]) -> None:
    """Check that no field of the original request is repeated: one of the two would come from the client.

    Raises:
        InvalidRequest: one is; names all that are.
    """
    if wrong := [name for name in repeated if name.startswith("x-original-") or name in _FORWARDED_ONCE]:
        raise sent_more_than_once(*sorted(wrong))


_FORWARDED_ONCE = frozenset({"x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto"})


def _profile(
    read: Callable[[AnyRequest], tuple[str, str]], *fields: str
) -> tuple[app_keys.AsyncHandler, app_keys.Operation]:
    """Return a handler and an operation for one profile. The authentication finds the operation by the handler.

    Args:
        read: returns method and target of the original request.
        fields: the names of the fields that it reads.
    """

    async def verify(request: web.Request) -> web.StreamResponse:
        return verified(request, request[app_keys.REQUEST_CONTEXT]).to_aiohttp()

    return verify, app_keys.Operation("verify", from_a_proxy(read), check_repeated, reads=vary.verify(*fields))


def verified(request: AnyRequest, context: app_keys.RequestContext) -> ApiResponse:
    """Answer an admitted request with the identity for the API; a request on an open route has none."""
    # Caddy leaves the body of a 200 unread and closes the connection: each request would need a new one.
    minimal = request.headers.get(PREFER) == "return=minimal"  # RFC 7240, section 4.2
    answer = ApiResponse(200, b"") if minimal else success_of(context, DONE)
    answer.lines = ADMITTED
    if context.identity is not None:
        answer.lines += identity_lines(*context.admitted())
    return answer


PROFILES = {
    ROOT: _profile(either, *ORIGINAL.names, *FORWARDED.names),
    NGINX: _profile(ORIGINAL, *ORIGINAL.names),
    f"{ROOT}/haproxy": _profile(ORIGINAL, *ORIGINAL.names),
    f"{ROOT}/traefik": _profile(FORWARDED, *FORWARDED.names),
    f"{ROOT}/caddy": _profile(from_caddy, *FORWARDED.names, UPGRADE),
    ENVOY: _profile(the_rest),
}
"""Path → its handler, and its operation."""


def identity_lines(identity: Identity, admission: Admission) -> str:
    """Return the identity as header lines for the API: `x-auth-*`."""
    session = admission.session
    lines = (
        f"x-auth-tenant: {identity.tenant}\r\nx-auth-user: {escaped(identity.user)}\r\n"
        f"x-auth-expires: {timestamp(identity.expires_ms)}\r\n"
    )
    if session is not None:
        return f"{lines}x-auth-status: {session.status}\r\n"
    if "sessions" in admission.degraded:
        return lines  # the status is not known without Redis
    return f"{lines}x-auth-status: none\r\n"


def escaped(user: str) -> str:
    """Return a user's id for a header field: everything but visible ASCII is percent-encoded."""
    return user if _AS_IT_IS.fullmatch(user) else quote(user, safe=_VISIBLE)


def translate(request: AnyRequest, response: AnyResponse) -> None:
    """Adapt a refusal to nginx: `auth_request` turns everything but 2xx, 401 and 403 into a 500.

    The real status, and the body, which nginx drops, travel in header fields (nginx, `error_page` and `return`).
    """
    path = request.raw_path
    if path.startswith(NGINX) and isinstance(response, ApiResponse) and path.partition("?")[0] == NGINX:
        response.lines += f"x-deny-status: {response.status}\r\n{line('x-deny-body', response.text.rstrip())}"
        if response.status not in (401, 403):
            response.status = 403
