"""Takes the picture of the dashboard that README.md shows: `make screenshot`.

A service with the shipped configuration serves users of the demo tenant for a minute and a half. Then
Chromium opens the dashboard.
"""

import asyncio
import json
import random
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml
from playwright.async_api import async_playwright

from tests.kit import ROOT, Service, credentials

PICTURE = ROOT / "docs" / "dashboard.png"
TENANT_TOKEN = "demo-tenant-token"
SECRET = "demo-signing-secret-for-trying-out-only"
OPERATOR_TOKEN = "demo-operator-token"
USERS = (
    "alice",
    "bob",
    "carol",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "mallory",
    "niaj",
    "olivia",
)
ROUNDS = 8
ROUND_S = 10.0
"""Charts have buckets of ten seconds, so that some rounds make a line."""


def serve_demo_users(service: Service) -> None:
    """Log users in and out, use up a limit, and suspend, restrict and terminate one each."""
    chance = random.Random(7)  # nosec B311  # the same picture each time
    for number in range(ROUNDS):
        for user in chance.sample(USERS, 9):
            who = credentials(user, tenant_token=TENANT_TOKEN, secret=SECRET, kid="demo")
            service.get("/auth/status", who)
            if chance.random() < 0.4:
                service.get("/auth/logout", who)
        if number % 3 == 2:
            who = credentials("mallory", tenant_token=TENANT_TOKEN, secret=SECRET, kid="demo")
            for _ in range(2 * number):
                service.get("/auth/logout", who)
        time.sleep(ROUND_S)
    operate(service, "POST", "users/mallory/suspend", {"reason": "odd traffic"})
    operate(service, "POST", "users/niaj/terminate", {"reason": "account closed"})
    operate(service, "PUT", "users/bob/restrictions/payments", {"reason": "invoice is overdue"})
    for number, user in enumerate(USERS[:8]):
        who = credentials(user, tenant_token=TENANT_TOKEN, secret=SECRET, kid="demo")
        service.get("/auth/logout" if number % 3 == 2 else "/auth/status", who)


def operate(service: Service, method: str, path: str, body: dict[str, str]) -> None:
    """One request to the admin API."""
    url = f"http://127.0.0.1:{service.port}/admin/v1/tenants/demo/{path}"
    headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=10):
        pass


async def take(service: Service, picture: Path) -> None:
    """Open the dashboard as an operator, and write what it shows."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = await browser.new_page(viewport={"width": 1120, "height": 860}, color_scheme="light", locale="en-GB")
        await page.goto(f"http://127.0.0.1:{service.port}/dashboard")
        await page.fill("#token", OPERATOR_TOKEN)
        await page.keyboard.press("Enter")
        await page.wait_for_selector('#live[data-state="on"]')
        await page.screenshot(path=picture)
        await browser.close()


def main() -> None:
    """Start, serve, take the picture, and end."""
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["limits"]["logout"] = [{"name": "logout-user", "per": "user", "requests": 8, "window": 3600}]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), {**content, "server": {}}).wait_until_ready()
        try:
            serve_demo_users(service)
            asyncio.run(take(service, PICTURE))
        finally:
            service.end()


if __name__ == "__main__":
    main()
