"""Requests to `/auth/verify`, as the proxy of each profile sends them."""

from typing import Any

from tests.conftest import Client

ROUTES = [
    {
        "path": "/api/payments/*",
        "methods": ["POST"],
        "capability": "payments",
        "limits": [{"name": "payments-user", "per": "user", "requests": 2, "window": 60}],
    },
    {"path": "/public/*", "open": True},
    {"path": "/*", "methods": ["OPTIONS"], "open": True},
    {"path": "/api/*", "capability": "api"},
]
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def asking(profile: str, method: str, target: str) -> tuple[str, str, dict[str, str]]:
    """How the proxy of this profile asks about `method` and `target`: method, path, header fields."""
    if profile == "envoy":
        return method, f"/auth/verify/envoy{target}", {}
    kind = "forwarded" if profile in ("traefik", "caddy") else "original"
    path = "/auth/verify" + (f"/{profile}" if profile else "")
    return "GET", path, {f"x-{kind}-method": method, f"x-{kind}-uri": target}


ALL = ["", "nginx", "haproxy", "traefik", "caddy", "envoy"]


async def ask(client: Client, profile: str, method: str, target: str, headers: dict[str, str]) -> Any:
    asked, path, reported = asking(profile, method, target)
    return await client.request(asked, path, headers=headers | reported, allow_redirects=False)
