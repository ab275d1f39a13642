"""The dashboard in the hands of a test: it logs in, and reads pages."""

import re

from aiohttp import ClientResponse

from tests.conftest import Client
from tests.kit import (
    OPERATOR_TOKEN,
)


async def form_token(client: Client) -> str:
    page = await (await client.get("/dashboard/login")).text()
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def log_in(client: Client, token: str = OPERATOR_TOKEN, **fields: str) -> ClientResponse:
    form = {"csrf": await form_token(client), "token": token, **fields}
    return await client.post("/dashboard/login", data=form, allow_redirects=False)


async def page(client: Client, path: str = "/dashboard", **query: str) -> str:
    answer = await client.get(path, params=query)
    assert answer.status == 200, await answer.text()
    return await answer.text()
