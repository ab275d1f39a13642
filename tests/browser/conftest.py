"""The machine's own Chromium, driven by Playwright."""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.kit import needs

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@asynccontextmanager
async def launched(*flags: str, without: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """A Chromium of its own, with more flags, and without some that Playwright sets."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    needs("Chromium (the package chromium)", found=path is not None)
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(
            executable_path=path, args=[*FLAGS, *flags], ignore_default_args=list(without)
        )
        yield made
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with launched() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """A browser without contexts: those of a test have cookies and storage of their own, and end with it."""
    yield chromium
    for context in chromium.contexts:
        await context.close()
