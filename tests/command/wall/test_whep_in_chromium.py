"""The page's own module in a real browser: pictures decode with the right content, leaving ends the session."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import uvicorn
from playwright.async_api import Browser, Page, async_playwright
from starlette.applications import Starlette
from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import Mount, Route

STATIC = Path(__file__).parents[3] / "command/web/static"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BITS = 8
PAGE = """<!doctype html><meta charset=utf-8><video id=v muted autoplay playsinline></video>
<script type=module>
import { startWhep } from "/whep.js";
const video = document.getElementById("v"), canvas = document.createElement("canvas");
window.states = []; window.shown = []; window.began = performance.now();
window.look = () => {
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0);
  const at = (x, y) => context.getImageData(canvas.width * x, canvas.height * y, 1, 1).data;
  let number = 0;
  for (let bit = 0; bit < BITS; bit++) number = number * 2 + (at((bit + 0.5) / BITS, 0.75)[1] > 120 ? 1 : 0);
  return { number, colour: [...at(0.5, 0.25)].slice(0, 3) };
};
function onFrame(now, meta) {
  window.firstMs ??= performance.now() - window.began;
  window.shown.push({ ...window.look(), at: Date.now() });
  video.requestVideoFrameCallback(onFrame);
}
video.requestVideoFrameCallback(onFrame);
window.live = startWhep(video, "WHEP", { onState: (state, why) => window.states.push([state, why]) });
</script>""".replace("BITS", str(BITS))


@pytest.fixture(scope="module")
def chromium_path() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium with H.264 is needed: sudo apt-get install chromium"
    return found


@pytest.fixture
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    flags = list(FLAGS)
    if not any(interface.isup for name, interface in psutil.net_if_stats().items() if name != "lo"):
        # Else Chromium sees no network at all. Not given otherwise: it must work as operators start it.
        flags += ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=flags)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """`app` with the page and the module on a free TCP port of this process."""

    async def page(request: object) -> HTMLResponse:
        return HTMLResponse(PAGE.replace("WHEP", request.query_params["whep"]))  # type: ignore[attr-defined]

    async def module(_: object) -> FileResponse:
        return FileResponse(STATIC / "whep.js", media_type="text/javascript")

    whole = Starlette(routes=[Route("/", page), Route("/whep.js", module), Mount("/", app)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(whole, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


async def open_wall(browser: Browser, base: str, whep: str) -> Page:
    page = await browser.new_page()
    page.on("console", lambda message: print("console:", message.text))
    page.on("pageerror", lambda error: print("page error:", error))
    await page.goto(f"{base}/?whep={whep}")
    return page


async def in_state(page: Page, state: str) -> None:
    """Wait for a state; by time, since a page that shows nothing new draws no animation frames."""
    await page.wait_for_function(f"window.live?.state === '{state}'", timeout=20_000, polling=100)


async def test_picture_plays_with_the_right_content_and_leaving_ends_the_session(wall, camera, browser, until) -> None:
    async with served(wall.app) as base:
        page = await open_wall(browser, base, "/whep/c-1/main")
        await page.wait_for_function("window.shown.length >= 90", timeout=30_000)
        facts = await page.evaluate(
            """() => { const video = document.getElementById("v"); return { width: video.videoWidth,
            height: video.videoHeight, states: window.states, shown: window.shown, firstMs: window.firstMs,
            look: window.look() } }"""
        )
        published = dict(camera.published_at)
        late_ms = sorted(1000 * (s["at"] / 1000 - published[s["number"]]) for s in facts["shown"][-40:])
        print(
            f"first picture {facts['firstMs']:.0f} ms, latency median {late_ms[20]:.0f} ms, worst {late_ms[-1]:.0f} ms"
        )
        assert (facts["width"], facts["height"]) == (640, 360)
        assert [state for state, _ in facts["states"]] == ["connecting", "live"]
        # Loose: the browser reads colours without a matrix in the stream as it likes.
        assert all(abs(a - b) <= 25 for a, b in zip(facts["look"]["colour"], (200, 40, 60), strict=True)), facts["look"]
        numbers = [shown["number"] for shown in facts["shown"]]
        steps = [(b - a) % 100 for a, b in itertools.pairwise(numbers)][-60:]
        assert steps.count(1) >= 50, numbers
        assert sum(steps) <= 70, numbers
        assert late_ms[20] < 500
        await page.evaluate("window.live.close()")
        await until(lambda: camera.open == 0, what="the source closed")
        ended = (await wall.stats())["ended"]
        assert ended in ({"viewer_left": 1}, {"peer_closed": 1})  # DELETE and DTLS's goodbye race
        assert await page.evaluate("window.live.state") == "closed"


async def test_page_that_is_left_ends_its_session_and_a_camera_that_stands_still_is_told(
    wall, camera, browser, until
) -> None:
    async with served(wall.app) as base:
        page = await open_wall(browser, base, "/whep/c-1/main")
        await in_state(page, "live")
        await camera.stop()
        await in_state(page, "stalled")
        camera.start()
        await in_state(page, "live")
        await page.close()
        await until(lambda: camera.open == 0, what="the source closed")


async def test_stream_that_webrtc_cannot_carry_is_refused_with_its_reason(wall, camera, browser, as_h265) -> None:
    await as_h265(camera)
    async with served(wall.app) as base:
        page = await open_wall(browser, base, "/whep/c-1/main")
        await in_state(page, "refused")
        state, why = (await page.evaluate("window.states"))[-1]
        assert (state, why["code"]) == ("refused", "wall.h265")
        assert "H.265" in why["sentence"]["zh"]
        assert why["other_ways"] == ["keyframes", "sub_stream"]
