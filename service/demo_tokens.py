"""Tokens that are signed with a tenant's own secret, for trying the service out."""

import time

import jwt

from service.config.jwt_settings import Jwt, KeySection
from service.config.settings import Settings, TenantSection
from service.core.tokens.claims import MAX_USER_CHARS, YEAR_10000_S, is_user_id


class NoSigningSecret(Exception):
    """The configuration has no secret to sign this token with; says why."""


def sign(settings: Settings, tenant: str, user: str, ttl_s: int) -> str:
    """Return a token for `user`, valid for `ttl_s` seconds.

    Raises:
        NoSigningSecret: there is no such tenant, or it has public keys only.
        ValueError: `user` cannot be a user, or the token would be of no use.
    """
    if tenant not in settings.tenants:
        raise NoSigningSecret(f"there is no tenant {tenant}; known are {', '.join(settings.tenants)}")
    if not is_user_id(user):
        raise ValueError(f"a user has 1 to {MAX_USER_CHARS} characters, none of them a control character")
    now_s = int(time.time())
    if not 1 <= ttl_s < YEAR_10000_S - now_s:
        raise ValueError("a token is valid for at least a second, and expires before the year 10000")
    rules, key, secret = _signer(settings.tenants[tenant], tenant, user)
    claims: dict[str, object] = {name: values[0] for name, values in rules.require.items()}
    claims |= {rules.subject_claim: user.removeprefix(rules.user_prefix), "iat": now_s, "exp": now_s + ttl_s}
    if rules.tenant_claim is not None:
        claims[rules.tenant_claim] = tenant
    if rules.issuer is not None:
        claims["iss"] = rules.issuer
    if rules.audiences:
        claims["aud"] = rules.audiences[0]
    headers: dict[str, object] = {"kid": key.kid} if key.kid is not None else {}
    if rules.types is not None:
        headers["typ"] = rules.types[0]  # PyJWT leaves out a type that is None
    # Without `alg`, by one that the tenant accepts.
    return jwt.encode(claims, secret, algorithm=rules.accepted(key)[0].alg, headers=headers)


def _signer(section: TenantSection, tenant: str, user: str) -> tuple[Jwt, KeySection, bytes]:
    """Find the block of `jwt` whose tokens can name this user, and its secret.

    Raises:
        NoSigningSecret: none has a secret.
    """
    for block in sorted(section.issuers, key=lambda block: len(block.user_prefix), reverse=True):
        for key in block.keys:
            secret = key.signing_secret
            if secret is not None and user.startswith(block.user_prefix) and user != block.user_prefix:
                return block, key, secret
    prefixes = [block.user_prefix for block in section.issuers if any(key.signing_secret for key in block.keys)]
    if prefixes:
        raise NoSigningSecret(f"tenant {tenant} signs for users that begin with {' or '.join(prefixes)}")
    raise NoSigningSecret(f"tenant {tenant} has public keys only; its tokens are signed elsewhere")
