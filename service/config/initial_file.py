"""A first configuration file with fresh secrets: `rollcall config init`."""

import base64
import os
import secrets
from pathlib import Path

TENANT = "main"
"""The one tenant of the file."""

_TEMPLATE = """\
# Rollcall's configuration, written by `rollcall config init`. It holds secrets: only its owner may read it.
# `rollcall check` reports all mistakes at once. docs/reference/settings.md lists every setting.
# For completion in an editor run `rollcall config schema > config.schema.json`, and make this the first line:
#   yaml-language-server: $schema=config.schema.json

server:
  host: 127.0.0.1                # 0.0.0.0 serves other hosts, too
  port: 8080
  # trusted_proxies: [10.0.0.0/24]   # your proxies: the service believes what they send about the client

redis:
  url: embedded                  # a server of the service's own, with its data in var/ beside this file
  # url: rediss://rollcall:PASSWORD@redis.internal:6379

tenants:
  {tenant}:
    token: "{tenant_token}"      # the clients' x-tenant-token
    jwt:
      keys:                      # signs and verifies the users' tokens: rollcall token --tenant {tenant} --user alice
        - {{kid: first, alg: HS256, secret: "{signing_secret}"}}
      # With an identity provider, in place of `keys`:
      # jwks_url: https://issuer.example/.well-known/jwks.json
      # issuer: https://issuer.example
      # audience: my-api

admin:
  tokens:                        # for the dashboard and the admin API
    - {{name: admin, token: "{operator_token}", role: operator, tenants: ["*"]}}
"""


def write_initial_file(path: Path) -> None:
    """Write a minimal configuration with random secrets, which only its owner may read.

    Raises:
        FileExistsError: there is something at `path`, which stays as it is.
        OSError: the file cannot be written.
    """
    text = _TEMPLATE.format(
        tenant=TENANT,
        tenant_token=secrets.token_urlsafe(32),
        signing_secret=secrets.token_urlsafe(48),
        operator_token=secrets.token_urlsafe(32),
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def webhook_secret() -> str:
    """Return a new secret for a webhook: 32 random bytes, in the form that Standard Webhooks asks for."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
