"""Headless Chromium for tests that look at a page; a pytest plugin of fixtures.

`open_page(url)` gives a page of 1920x1080 whose console errors and failed scripts fail the test at its end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from playwright.async_api import Browser, Page, async_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OpenPage = Callable[..., Awaitable[Page]]


def find_chromium() -> str:
    """`GRIDWATCH_CHROMIUM`, else the first browser found by name."""
    names = (os.environ.get("GRIDWATCH_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    assert found, "Chromium with H.264 is needed: sudo apt-get install chromium"
    return found


def flags() -> list[str]:
    """`FLAGS`, and on a machine with loopback only two more: else Chromium sees no network for WebRTC at all."""
    if any(interface.isup for name, interface in psutil.net_if_stats().items() if name != "lo"):
        return FLAGS
    return [*FLAGS, "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"]


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A browser of its own for the test."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=flags())
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(chromium: Browser) -> AsyncIterator[OpenPage]:
    """Opens pages; at the end nothing may have been wrong in any of them but what `forgive` words allow."""
    faults: list[str] = []
    forgiven: list[str] = []

    async def open_it(url: str, *, forgive: tuple[str, ...] = (), width: int = 1920, height: int = 1080) -> Page:
        forgiven.extend(forgive)
        context = await chromium.new_context(
            viewport={"width": width, "height": height}, locale="zh-CN", reduced_motion="reduce"
        )
        page = await context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("requestfailed", lambda request: faults.append(f"request: {request.url} {request.failure}"))
        await page.goto(url)
        return page

    yield open_it
    left = [fault for fault in faults if not any(word in fault for word in forgiven)]
    assert not left, left


async def save_screenshot(page: Page, path: Path) -> None:
    """A picture of the viewport, its folder made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=path)
