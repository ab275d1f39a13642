"""Redaction of tokens that clients send in the wrong place: in a path, or as a request id."""

import re

from service.core.tenants import digest
from service.web.policy import Policy

REDACTED = "[token]"
_JWT = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")


def is_token(text: str, policy: Policy) -> bool:
    """Return whether `text` contains a JWT, or is one of the configured tokens."""
    return _JWT.search(text) is not None or digest(text) in policy.secrets


def redacted(path: str, policy: Policy) -> str:
    """Return `path` with segments that are tokens replaced."""
    return "/".join(REDACTED if is_token(segment, policy) else segment for segment in path.split("/"))
