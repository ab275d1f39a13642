"""Logs out with the client that openapi-python-client makes. Arguments: URL, tenant's token, user's token."""

import json
import sys

from generated.python.api.auth import get_auth_status, post_auth_logout  # type: ignore[import-not-found]
from generated.python.client import Client  # type: ignore[import-not-found]

url, tenant, user = sys.argv[1:]
client = Client(base_url=url, headers={"x-tenant-token": tenant, "x-token": user})
out = post_auth_logout.sync_detailed(client=client)
status = get_auth_status.sync_detailed(client=client, x_passive="true")
result = {"status": out.status_code, "success": out.parsed.data.success, "now": str(status.parsed.data.status)}
sys.stdout.write(json.dumps(result))
