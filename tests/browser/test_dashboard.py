"""A real Chromium at the dashboard: logs in, filters, opens a user, and sees a logout."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.kit import (
    OPERATOR_TOKEN,
    OTHER_SECRET,
    OTHER_TENANT_TOKEN,
    VIEWER_TOKEN,
    Service,
    config,
    credentials,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    made = start(config()).wait_until_ready()
    for user in ("alice", "bob", "<script>alert(1)</script>"):
        assert made.get("/auth/status", credentials(user)).status == 200
    return made


async def open_dashboard(
    browser: Browser, service: Service, token: str = OPERATOR_TOKEN, **how: object
) -> tuple[Page, list[str]]:
    """A page that is logged in, and what its console has to complain about."""
    context = await browser.new_context(**how)  # type: ignore[arg-type]
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard")
    await expect(page.locator("#token")).to_be_focused()  # by itself
    await page.keyboard.type(token)
    await page.keyboard.press("Enter")
    await page.wait_for_selector('#live[data-state="on"]')
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
    await page.locator("tbody th a").click()
    assert await page.locator(".badge").first.inner_text() == "Logged in"
    await page.locator(".facts").get_by_text("just now").first.wait_for()
    since = page.locator(".facts time:not([data-relative])").first
    shown = await since.inner_text()
    assert re.search(r"\b[AP]M\b", shown), "in the reader's own way of writing"
    assert await since.evaluate(
        "e => e.textContent.startsWith(new Intl.DateTimeFormat('en-US', {dateStyle: 'medium', timeStyle: 'medium'})"
        ".format(Date.parse(e.dateTime)))"
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
    for _ in range(60):
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
    assert {"Rollcall", "Sign out", "status", "user", "Filter", "alice", "bob"} <= set(reached)


async def test_the_logout_of_the_operator_ends_the_view(browser: Browser, service: Service) -> None:
    page, _ = await open_dashboard(browser, service)
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/dashboard/login")
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard")
    assert "/dashboard/login" in page.url


LIVE_MS = 1000
"""Within so long a page shows what happened elsewhere."""


async def act(page: Page, button: str, reason: str) -> None:
    """Click, give the reason, confirm; the notice shows the result."""
    await page.locator(".acts").get_by_role("button", name=button, exact=True).click()
    await page.fill("#act-reason", reason)
    await page.locator("dialog").get_by_role("button", name=button, exact=True).click()
    await expect(page.locator("#notice")).to_contain_text(f"{button}: 1 of 1 done")


async def test_two_browsers_see_at_once_what_happens_and_what_an_operator_does(
    browser: Browser, service: Service
) -> None:
    (one, complaints), (other, more) = [await open_dashboard(browser, service) for _ in range(2)]
    assert service.get("/auth/logout", credentials("alice")).status == 200
    for page in (one, other):
        await expect(page.locator(".count.logged_out .number")).to_have_text("1", timeout=LIVE_MS)
        await expect(page.locator("tbody tr", has_text="alice").locator(".badge")).to_have_text("Logged out")
        await expect(page.locator(".events li").first).to_contain_text("logged in → logged out")

    await one.locator("tbody th a", has_text="bob").click()
    await one.wait_for_selector('#live[data-state="on"]')
    await act(one, "Suspend", "looks odd")
    await expect(other.locator(".count.suspended .number")).to_have_text("1", timeout=LIVE_MS)
    await expect(other.locator(".events li").first).to_contain_text("looks odd")
    refused = service.get("/auth/status", credentials("bob"))
    assert (refused.status, refused.code) == (403, "USER_SUSPENDED")
    await expect(one.locator("h1 .badge")).to_have_text("Suspended")

    await act(one, "Reinstate", "a mistake")
    assert service.get("/auth/status", credentials("bob")).status == 200
    await expect(other.locator("tbody tr", has_text="bob").locator(".badge")).to_have_text("Logged in")
    assert complaints == more == []


async def test_many_are_chosen_and_what_came_of_each_is_said(browser: Browser, service: Service) -> None:
    page, complaints = await open_dashboard(browser, service)
    bar = page.locator("#bulk")
    await expect(bar).to_be_hidden()
    await page.check("#choose-all")
    await expect(bar.locator("output")).to_have_text("3 chosen")
    assert service.get("/auth/logout", credentials("alice")).status == 200
    await expect(page.locator(".count.logged_out .number")).to_have_text("1")
    await expect(bar.locator("output")).to_have_text("3 chosen")  # an update does not lose the choice
    await bar.get_by_role("button", name="Reinstate").click()
    await page.locator("dialog").get_by_role("button", name="Reinstate").click()
    await expect(page.locator("#notice")).to_contain_text("0 of 3 done")
    await expect(page.locator("#notice")).to_contain_text("alice: reinstate conflicts with the status logged_out")
    assert complaints == []


async def test_restrictions_and_limits_are_set_and_lifted(browser: Browser, service: Service) -> None:
    page, _ = await open_dashboard(browser, service)
    await page.get_by_role("link", name="Restrictions and limits").click()
    await page.wait_for_selector('#live[data-state="on"]')
    await page.get_by_role("button", name="Restrict", exact=True).click()
    await page.fill("#act-capability", "status")
    await page.fill("#act-until", "2001-01-01T00:00")
    await page.fill("#act-reason", "odd traffic")
    await page.locator("dialog [type=submit]").click()
    await expect(page.locator("dialog .wrong")).to_contain_text("until: has passed already")
    assert await page.input_value("#act-reason") == "odd traffic", "what was typed is kept"
    await page.fill("#act-until", "")
    await page.locator("dialog [type=submit]").click()
    await expect(page.locator("[data-live=restrictions] code")).to_have_text("status")
    assert service.get("/auth/status", credentials("alice")).code == "RESTRICTED_CAPABILITY"
    await page.get_by_role("button", name="Lift").click()
    await page.locator("dialog [type=submit]").click()
    await expect(page.locator("[data-live=restrictions]")).to_contain_text("No restrictions")
    assert service.get("/auth/status", credentials("alice")).status == 200

    row = page.locator("tbody tr", has_text="logout-ip")
    await row.get_by_role("button", name="Change", exact=True).click()
    await page.fill("#act-requests", "1")
    await page.locator("dialog [type=submit]").click()
    await expect(row).to_contain_text("30 in 3600 s")
    await expect(page.locator("#notice")).to_contain_text("before it was 30 in 3600 s")
    answers = [service.get("/auth/logout", credentials("alice")).status for _ in range(2)]
    assert answers == [200, 429]


async def test_the_page_says_what_holds_after_an_act_that_came_late_and_replaces_it_when_asked(
    browser: Browser, service: Service
) -> None:
    page, complaints = await open_dashboard(browser, service)
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard/user?tenant=acme&user=alice")
    await page.wait_for_selector('#live[data-state="on"]')
    notice, stolen = page.locator("#notice"), credentials("alice", iat=int(time.time()))

    async def revoke(before: str, *, replace: bool = False) -> None:
        await page.get_by_role("button", name="Revoke tokens", exact=True).click()
        await page.fill("#act-before", before)
        if replace:
            await page.check("#act-replace")
        await page.locator("dialog [type=submit]").click()

    await revoke("")
    await expect(notice).to_contain_text("Revoke tokens: done; tokens issued from")
    await revoke("2020-01-01T00:00")
    await expect(notice).to_contain_text("Revoke tokens: nothing changed; tokens issued from")
    assert service.get("/auth/status", stolen).status == 401
    await revoke("2020-01-01T00:00", replace=True)
    await expect(notice).to_contain_text("Revoke tokens: done; tokens issued from Jan 1, 2020")
    assert service.get("/auth/status", stolen).status == 200
    assert complaints == []


async def test_a_viewer_sees_no_button_that_changes_anything(browser: Browser, service: Service) -> None:
    other = credentials("zoe", tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET)
    assert service.get("/auth/status", other).status == 200
    page, complaints = await open_dashboard(browser, service, VIEWER_TOKEN)
    for path in ("/dashboard", "/dashboard/user?tenant=globex&user=zoe", "/dashboard/rules?tenant=globex"):
        await page.goto(f"http://127.0.0.1:{service.port}{path}")
        await page.wait_for_selector('#live[data-state="on"]')
        assert await page.locator("button[data-path], input[name=chosen], dialog").count() == 0
    answer = await page.request.post(
        f"http://127.0.0.1:{service.port}/dashboard/api/tenants/globex/sessions/suspend", data={"users": ["zoe"]}
    )
    assert answer.status == 403
    assert complaints == []


async def test_a_page_says_when_it_is_not_live_and_is_again_by_itself(browser: Browser, service: Service) -> None:
    page, _ = await open_dashboard(browser, service)
    service.end()
    await expect(page.locator("#live")).to_contain_text("Not live")
    service.start()
    service.wait_until_ready()
    await expect(page.locator('#live[data-state="on"]')).to_be_visible(timeout=10_000)
    assert service.get("/auth/logout", credentials("bob")).status == 200
    await expect(page.locator(".count.logged_out .number")).to_have_text("1")


async def test_axe_finds_no_serious_fault(browser: Browser, service: Service) -> None:
    for scheme in ("light", "dark"):
        page, _ = await open_dashboard(browser, service, color_scheme=scheme, bypass_csp=True)
        for path in ("/dashboard", "/dashboard/user?tenant=acme&user=alice", "/dashboard/rules?tenant=acme"):
            await page.goto(f"http://127.0.0.1:{service.port}{path}")
            await page.wait_for_selector('#live[data-state="on"]')
            found = await Axe().run(page)
            serious = [
                (one["id"], [node["html"] for node in one["nodes"]])
                for one in found.response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], f"{scheme} {path}"


async def test_seven_tabs_of_a_browser_are_live(browser: Browser, service: Service) -> None:
    """Over HTTP/1.1 a browser opens six connections to a host: tabs with a stream each would take them all."""
    page, complaints = await open_dashboard(browser, service)
    tabs = [page, *[await page.context.new_page() for _ in range(6)]]
    for tab in tabs[1:]:
        await tab.goto(f"http://127.0.0.1:{service.port}/dashboard?tenant=acme")
        await tab.wait_for_selector('#live[data-state="on"]')
    assert service.get("/auth/logout", credentials("alice")).status == 200
    for tab in tabs:
        await expect(tab.locator(".count.logged_out .number")).to_have_text("1")
    assert complaints == []


async def test_exact_times_name_their_zone_and_relative_ones_are_in_the_language_of_the_page(
    browser: Browser, service: Service
) -> None:
    page, _ = await open_dashboard(browser, service, timezone_id="America/New_York", locale="de-DE")
    await page.goto(f"http://127.0.0.1:{service.port}/dashboard/user?tenant=acme&user=alice")
    exact = await page.locator(".full time").first.inner_text()
    assert re.search(r"(EST|EDT|GMT-[45])$", exact), exact
    relative = await page.locator("dd > time[data-relative]").all_inner_texts()
    assert relative
    assert all(re.fullmatch(r"just now|now|in .*|.* ago|tomorrow|yesterday", one) for one in relative), relative
