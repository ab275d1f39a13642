"""What was sent where it does not belong: tokens in a path, or as a request id, are not told."""

import re

from service.core.tenants import digest
from service.web.policy import Policy

REDACTED = "[token]"
_JWT = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")


def is_token(text: str, policy: Policy) -> bool:
    """Whether `text` holds a JWT, or is one of the tokens that are configured."""
    return _JWT.search(text) is not None or digest(text) in policy.secrets


def redacted(path: str, policy: Policy) -> str:
    """`path`, with the segments that are tokens made unreadable."""
    return "/".join(REDACTED if is_token(segment, policy) else segment for segment in path.split("/"))
