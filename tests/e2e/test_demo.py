"""The demo as a newcomer runs it: the smoke run, and the page of a running demo in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.async_api import Page, expect

from ingest.simulate.clips import ensure_clips
from ingest.simulate.recipe import DEMO_SET
from tests.browser import OpenPage, save_screenshot
from tests.e2e.live_town import ROOT, free_port

GRIDWATCH = str(Path(sys.executable).with_name("gridwatch"))
CAMERAS = int(os.environ.get("GRIDWATCH_TEST_CAMERAS", "8"))
SHOTS = Path(os.environ.get("GRIDWATCH_SHOTS") or Path(__file__).parent / "output")


@pytest.fixture(scope="module")
def clips() -> None:
    """Set-up, as the demo does it before its run begins."""
    ensure_clips(DEMO_SET)


def environment(home: Path) -> dict[str, str]:
    ports = {"GRIDWATCH_PORT": str(free_port()), "GRIDWATCH_MQTT_PORT": str(free_port())}
    return {**os.environ, "GRIDWATCH_HOME": str(home), **ports}


def test_smoke_run_walks_the_whole_chain(clips: None, short_tmp: Path) -> None:
    done = subprocess.run(
        [GRIDWATCH, "demo", "--smoke"],
        cwd=ROOT,
        env=environment(short_tmp / "smoke"),
        capture_output=True,
        text=True,
        timeout=160,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    answer = json.loads(done.stdout)
    print(answer)
    assert answer["ok"] is True
    assert 0 < answer["camera_to_event_s"] < 10
    assert 0 < answer["event_to_task_ms"] < 5000


@dataclass
class Demo:
    """A running `gridwatch demo`."""

    process: asyncio.subprocess.Process
    url: str
    log: Path


@pytest.fixture
async def demo(clips: None, short_tmp: Path) -> AsyncIterator[Demo]:
    log = short_tmp / "demo.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            GRIDWATCH,
            "demo",
            "--cameras",
            str(CAMERAS),
            cwd=ROOT,
            env=environment(short_tmp / "demo"),
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = (await process.stdout.readline()).decode()
    found = re.search(r"http://\S+", line)
    assert found, line + log.read_text()[-3000:]
    yield Demo(process, found[0], log)
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        await process.wait()


async def test_page_of_the_running_demo_and_a_clean_end(demo: Demo, open_page: OpenPage) -> None:
    """An event arrives, its case is shown with picture and task, a camera plays live; Ctrl-C leaves nothing behind."""
    page = await open_page(demo.url, forgive=("/api/v1/live", "ERR_CONNECTION_REFUSED"))  # once it has ended
    await expect(page.locator("#count-cameras b")).to_have_text(f"{CAMERAS}/{CAMERAS}", timeout=30_000)
    event = page.locator("#events .event").first
    await expect(event).to_be_attached(timeout=60_000)
    await expect(page.locator("#tiles img[src^=blob]").nth(CAMERAS // 2)).to_be_attached(timeout=30_000)
    await expect(page.locator("#cases .case")).not_to_have_count(0, timeout=10_000)
    await event.locator("button").click()
    await page.wait_for_selector("#panel .picture .box")
    assert "入侵检测" in (await page.locator("#panel-title").text_content() or "")
    assert await page.locator("#panel .steps li").count() >= 2
    await save_screenshot(page, SHOTS / "page.png")
    await page.keyboard.press("Escape")
    await page.click("#tiles [data-key] button")
    await plays(page)
    await save_screenshot(page, SHOTS / "live.png")

    children = psutil.Process(demo.process.pid).children(recursive=True)
    assert len(children) >= 6, children
    demo.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        assert await demo.process.wait() == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, alive
    said = demo.log.read_text()
    assert "Traceback" not in said, said[max(0, said.index("Traceback") - 200) :][:3000]


async def plays(page: Page) -> None:
    """The panel's video shows HD frames, and they go on."""
    script = """() => {
        const video = document.querySelector('#panel video');
        return video && !video.hidden ? [video.videoWidth, video.getVideoPlaybackQuality().totalVideoFrames] : [0, 0];
    }"""
    first = 0
    async with asyncio.timeout(20):
        while True:
            width, frames = await page.evaluate(script)
            if width == 1920 and frames:
                first = first or frames
                if frames >= first + 20:
                    return
            await asyncio.sleep(0.1)
