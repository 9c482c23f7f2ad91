"""The page in headless Chromium: what an operator sees and does."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psycopg
from playwright.async_api import Page, Route, expect

from command.web.server import WebServer
from ingest.health import CameraState
from tests.browser import OpenPage, save_screenshot

SHOTS = Path(os.environ.get("GRIDWATCH_SHOTS") or Path(__file__).parent / "output")


async def test_operator_sees_an_event_arrive_opens_its_case_and_closes_it(
    town: Any, server: WebServer, open_page: OpenPage
) -> None:
    for number in range(24):
        if number % 6 != 3:
            await asyncio.to_thread(town.pictures.put, f"c-{number:03d}", *picture(town, number))
    states = (
        ("received", "dispatched"),
        ("accepted", "accepted"),
        ("done", "reported_back"),
        ("done", "reported_back"),
    )
    for number in range(8):
        task, case = states[number % 4]
        town.add_event(number, 60 - 7 * number, task=task, case=case)
    page = await open_page(server.url)
    await page.wait_for_selector("#events .event")
    assert await page.locator("#events .event").count() == 8
    assert await page.locator("#count-cameras b").text_content() == "22/24"
    await expect(page.locator("#tiles img[src^=blob]").nth(7)).to_be_attached()

    event_id = town.add_event(11, 0)
    await page.wait_for_selector(f'#events [data-key="{event_id}"]')
    assert await page.locator("#events .event").first.get_attribute("data-key") == str(event_id)
    assert await page.locator("#count-tasks b").text_content() == "1"
    assert "柳河村12号" in (await page.locator("#announce").text_content() or "")
    await save_screenshot(page, SHOTS / "page.png")

    await page.click(f'#events [data-key="{town.events[3]}"] button')
    await page.wait_for_selector("#panel .picture .box")
    await until_true(page, "document.querySelector('#panel .picture img')?.naturalWidth === 1280")
    assert "#4" in (await page.locator("#panel-title").text_content() or "")
    assert await page.locator("#panel .steps li").count() == 3
    await save_screenshot(page, SHOTS / "case.png")
    await page.click('#panel [data-step="verify"]')
    await page.wait_for_selector("#panel .said.good")
    await page.wait_for_selector("#panel .facts .chip:text-is('已结案')")
    await page.wait_for_selector(f'#cases [data-key="{town.cases[3]}"] .of-case:text-is("已结案")')

    await page.keyboard.press("Escape")
    assert await page.locator("#panel").is_hidden()


async def test_operator_who_was_overtaken_is_told_and_shown_the_newest_state(
    town: Any, server: WebServer, open_page: OpenPage
) -> None:
    town.add_event(1, 3, task="done", case="reported_back")
    page = await open_page(server.url, forgive=("409",))
    await page.click("#cases .case button")
    await page.wait_for_selector('#panel [data-step="send_back"]')
    await page.click('#panel [data-step="send_back"]')
    assert "写明原因" in (await page.locator("#panel .said").text_content() or "")

    await page.route("**/steps", lambda route: overtake(town, route))
    await page.fill("#act-note", "照片不清楚")
    await page.click('#panel [data-step="send_back"]')
    await page.wait_for_selector("#panel .said:has-text('第 9 版')")
    assert await page.input_value("#act-note") == "照片不清楚"


async def test_page_says_when_the_line_is_lost_and_recovers(town: Any, server: WebServer, open_page: OpenPage) -> None:
    town.add_event(1, 3)
    page = await open_page(server.url, forgive=("/live", "ERR_", "Failed to load"))
    await page.wait_for_selector("#events .event")
    await page.wait_for_selector("#line:text-is('实时连接正常')")
    await page.context.set_offline(True)
    server._app.state.live.close()
    await page.wait_for_selector("body.stale")
    assert "连接中断" in (await page.locator("#line").text_content() or "")
    await save_screenshot(page, SHOTS / "stale.png")
    server._app.state.live.reopen()
    town.add_event(2, 0)
    await page.context.set_offline(False)
    await expect(page.locator("#events .event")).to_have_count(2)
    await page.wait_for_selector("body:not(.stale)")


async def test_camera_that_is_not_live_shows_its_state_and_the_page_speaks_english(
    town: Any, server: WebServer, open_page: OpenPage
) -> None:
    await asyncio.to_thread(town.pictures.put, "c-003", *picture(town, 3))
    page = await open_page(server.url + "?lang=en", forgive=("503",))
    await page.click('#tiles [data-key="c-003"] button')
    await page.wait_for_selector("#panel .say:has-text('unreachable')")
    await page.wait_for_selector("#panel .picture img:not([hidden])")
    town.set_state("c-003", CameraState.LIVE)
    await page.wait_for_selector("#panel .say:has-text('No live picture')")
    await save_screenshot(page, SHOTS / "camera.png")
    await page.click("#lang")
    await page.wait_for_selector("h1:has-text('指挥台')")


async def until_true(page: Page, expression: str) -> None:
    """Poll from outside: the page's security policy forbids the evaluation that Playwright's own wait uses."""
    async with asyncio.timeout(10):
        while not await page.evaluate(expression):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def overtake(town: Any, route: Route) -> None:
    with psycopg.connect(town.conninfo) as conn:
        conn.execute("UPDATE cases SET revision = 9")
    await route.continue_()


def picture(town: Any, number: int) -> tuple[bytes, Any]:
    rng = np.random.default_rng(number)
    scene = np.full((360, 640, 3), rng.integers(60, 170, 3), np.uint8)
    cv2.fillPoly(scene, [np.array([[0, 360], [640, 360], [400, 150], [240, 150]])], (90, 90, 90))
    for x in range(0, 640, 90):
        top = int(150 - rng.integers(40, 100))
        cv2.rectangle(scene, (x, top), (x + 75, 150), [int(c) for c in rng.integers(60, 190, 3)], -1)
    return cv2.imencode(".jpg", scene)[1].tobytes(), datetime.now(UTC)
