"""The buttons of the dashboard for webhooks: pause, resume, try now, skip."""

import html
import json
import re
from typing import Any

import pytest

from service.core.webhooks import Pause, Waiting
from service.store.connection.client import RedisAccess
from service.store.events.webhook_state import RedisWebhookStates
from tests.conftest import Client, MakeClient
from tests.kit import VIEWER_TOKEN, tenant
from tests.web.dashboard_pages import log_in, page
from tests.web.receivers import SECRET, begun

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)
HOOKS = [{"name": "audit", "url": "http://127.0.0.1:9/", "secret": SECRET, "events": ["forgotten"]}]
WAITING = Waiting("acme.1-0", {"type": "x"}, attempts=2, error="the receiver answered 400")


async def signed_in(make_client: MakeClient, token: str | None = None) -> Client:
    client = await make_client(tenants={"acme": tenant(webhooks=HOOKS), "globex": tenant(token="t-2", webhooks=HOOKS)})
    await log_in(client, *([token] if token else []))
    return client


async def buttons(client: Client, of: str = "acme") -> dict[str, dict[str, str]]:
    """The buttons for webhooks by their text, each with its attributes."""
    section = (await page(client, "/dashboard/rules", tenant=of)).partition('data-live="webhooks"')[2]
    found = {}
    for attributes, text in re.findall(r"<button ([^>]*)>([^<]+)</button>", section):
        values = {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        if "/webhooks/" in values.get("data-path", ""):
            found[text] = values
    return found


async def press(client: Client, button: dict[str, str]) -> dict[str, Any]:
    """Send what the page's script sends for a button."""
    shown = await page(client, "/dashboard/rules", tenant="acme")
    [csrf] = re.findall(r'data-csrf="([^"]+)"', shown)
    answer = await client.request(
        button["data-method"],
        f"/dashboard/api{button['data-path']}",
        data=json.dumps(json.loads(button["data-body"]) | {"reason": "because"}),
        headers={"content-type": "application/json", "x-csrf-token": csrf},
    )
    assert answer.status == 200, await answer.text()
    data: dict[str, Any] = (await answer.json())["data"]
    return data


async def test_a_webhook_is_paused_and_resumed_with_a_reason(make_client: MakeClient, access: RedisAccess) -> None:
    client, states = await signed_in(make_client), RedisWebhookStates(access.client)
    assert set(await buttons(client)) == {"Pause"}
    assert (await press(client, (await buttons(client))["Pause"]))["applied"]
    paused = (await states.state("acme", "audit")).paused
    assert paused is not None
    assert (paused.by, paused.reason) == ("root", "because")
    assert set(await buttons(client)) == {"Resume"}
    assert (await press(client, (await buttons(client))["Resume"]))["applied"]
    assert (await states.state("acme", "audit")).paused is None


async def test_a_message_that_waits_is_skipped_and_no_other(make_client: MakeClient, access: RedisAccess) -> None:
    client, states = await signed_in(make_client), RedisWebhookStates(access.client)
    await states.pause("acme", "audit", Pause("root", "", 1))  # no worker attempts it meanwhile
    await states.wait("acme", "audit", WAITING)
    offered = await buttons(client)
    assert set(offered) == {"Resume", "Skip message"}
    assert (await press(client, offered["Skip message"]))["id"] == "acme.1-0"
    skip = (await states.state("acme", "audit")).skip
    assert skip is None or (skip.message_id, skip.by, skip.reason) == ("acme.1-0", "root", "because")


async def test_a_failing_webhook_can_be_tried_now(make_client: MakeClient, access: RedisAccess) -> None:
    client = await signed_in(make_client)
    await begun(access, "audit")
    await RedisWebhookStates(access.client).wait("acme", "audit", WAITING)
    assert set(await buttons(client)) == {"Try now", "Pause", "Skip message"}


async def test_a_viewer_has_no_buttons(make_client: MakeClient) -> None:
    assert await buttons(await signed_in(make_client, VIEWER_TOKEN), "globex") == {}
