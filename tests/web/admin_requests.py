"""Requests to the admin API, and what is refused."""

from typing import Any

from tests.conftest import Client
from tests.kit import (
    OPERATOR,
    credentials,
)

AT = "/admin/v1/tenants/acme"


async def ask(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """The data of an answer of 200."""
    answer = await client.request(method, path, json=body, headers=OPERATOR | headers)
    content = await answer.json()
    assert answer.status == 200, content
    return content["data"]


async def refused(client: Client, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, str]:
    """Status and code of a refusal."""
    answer = await client.request(method, path, json=body, headers=OPERATOR if headers is None else headers)
    content = await answer.json()
    assert set(content) == {"meta", "error"}, content
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, content["error"]["code"]


async def seen(client: Client, *users: str) -> None:
    for user in users:
        assert (await client.get("/auth/status", headers=credentials(user))).status == 200
