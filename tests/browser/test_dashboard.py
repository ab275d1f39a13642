"""A real Chromium at the dashboard: logs in, filters, opens a user, and sees a logout."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.kit import OPERATOR_TOKEN, Service, config, credentials, needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    needs("Chromium (the package chromium)", found=path is not None)
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield made
        await made.close()


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    made = start(config()).wait_until_ready()
    for user in ("alice", "bob", "<script>alert(1)</script>"):
        assert made.get("/auth/status", credentials(user)).status == 200
    return made


async def open_dashboard(browser: Browser, service: Service, **how: object) -> tuple[Page, list[str]]:
    """A page that is logged in, and what its console has to complain about."""
    context = await browser.new_context(**how)  # type: ignore[arg-type]
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard")
    await page.wait_for_function("document.activeElement.id === 'token'")  # the field has the focus by itself
    await page.keyboard.type(OPERATOR_TOKEN)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("table")
    return page, complaints


async def test_an_operator_logs_in_filters_opens_a_user_and_sees_a_logout(
    browser: Browser, service: Service, tmp_path: Path
) -> None:
    page, complaints = await open_dashboard(browser, service, timezone_id="America/New_York", locale="en-US")
    rows = page.locator("tbody tr")
    assert await rows.count() == 3
    assert await page.locator(".count.logged_in .number").inner_text() == "3"

    await page.fill("#user", "al")
    await page.get_by_role("button", name="Filter").click()
    await page.wait_for_url("**user=al**")
    assert await page.locator("tbody th a").all_inner_texts() == ["alice"]
    await page.get_by_role("link", name="alice").click()
    assert await page.locator(".badge").first.inner_text() == "Logged in"
    assert "just now" in await page.locator(".facts").inner_text()
    since = page.locator(".facts time:not([data-relative])").first
    shown = await since.inner_text()
    assert shown.endswith(("AM", "PM")), "in the reader's own way of writing"
    assert await since.evaluate(
        "e => e.textContent === new Intl.DateTimeFormat(undefined, {dateStyle: 'medium', timeStyle: 'medium'})"
        ".format(Date.parse(e.dateTime))"
    ), "and in the reader's zone"

    assert service.get("/auth/logout", credentials("alice")).status == 200
    await page.reload()
    assert await page.locator("h1 .badge").inner_text() == "Logged out"
    assert "logged in → logged out" in await page.locator(".events").inner_text()
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard?tenant=acme&status=logged_out")
    assert await page.locator("tbody th a").all_inner_texts() == ["alice"]
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_it_fits_a_desk_and_a_phone_in_light_and_dark(
    browser: Browser, service: Service, tmp_path: Path, scheme: str, width: int
) -> None:
    page, complaints = await open_dashboard(
        browser, service, color_scheme=scheme, viewport={"width": width, "height": 800}
    )
    for path in ("/dashboard", "/dashboard/user?tenant=acme&user=alice", "/dashboard?tenant=acme&user=nobody"):
        await page.goto(f"http://127.0.0.1:{service.port}{path}")
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{path} overflows"
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in background[4:-1].split(",")) > 380) == (scheme == "light")
        await page.screenshot(path=tmp_path / "page.png")
    assert complaints == []


async def test_everything_is_reached_by_keyboard_and_the_focus_is_seen(browser: Browser, service: Service) -> None:
    page, _ = await open_dashboard(browser, service)
    reached: list[str] = []
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement === document.body"):
            break  # once around
        reached.append(
            await page.evaluate(
                "(document.activeElement.id || document.activeElement.innerText || '').trim().split('\\n')[0]"
            )
        )
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached[0] == "Skip to content"
    assert {"Rollcall", "Log out", "status", "user", "Filter", "alice", "bob"} <= set(reached)


async def test_the_logout_of_the_operator_ends_the_view(browser: Browser, service: Service) -> None:
    page, _ = await open_dashboard(browser, service)
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/dashboard/login")
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard")
    assert "/dashboard/login" in page.url
