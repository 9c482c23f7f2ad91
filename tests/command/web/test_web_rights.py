"""The door: rights, loopback only, foreign hosts and origins, security headers; reference pages, vendored files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.staticfiles import StaticFiles

from command.web.reference import api_page, rights_page
from command.web.rights import (
    RightedFiles,
    UndeclaredRouteError,
    declared,
    is_loopback,
    refuse_undeclared,
    require_loopback,
    right,
)
from command.web.server import WebServer
from ingest.errors import GridwatchError

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "command/web/static"


async def test_every_way_in_declares_a_right(app: FastAPI) -> None:
    entries = list(declared(app))
    assert len(entries) >= 20
    assert all(entry.rights for entry in entries)
    assert {entry.path: entry.rights for entry in entries}["/static"] == ("page.open",)


def test_undeclared_route_websocket_and_mount_stop_the_start() -> None:
    app = FastAPI(openapi_url=None)
    router = APIRouter(prefix="/deep")

    @router.get("/open")
    async def hole() -> None: ...

    @router.get("/closed", dependencies=[right("cases.read")])
    async def declared_route() -> None: ...

    @app.websocket("/ws")
    async def socket(_: WebSocket) -> None: ...

    app.include_router(router, prefix="/more")
    app.mount("/files", StaticFiles(directory=STATIC))
    app.mount("/fine", RightedFiles("page.open", directory=STATIC))
    with pytest.raises(UndeclaredRouteError) as caught:
        refuse_undeclared(app)
    told = str(caught.value)
    assert "GET /more/deep/open" in told
    assert "WEBSOCKET /ws" in told
    assert "MOUNT /files" in told
    assert "closed" not in told
    assert "fine" not in told


def test_unknown_right_cannot_be_declared() -> None:
    with pytest.raises(UndeclaredRouteError):
        right("everything.do")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "::ffff:127.0.0.1"]
)
def test_loopback_is_allowed(host: str) -> None:
    require_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "town.example", "", "localhost.evil.example", "127.1"]
)
def test_other_addresses_are_refused_with_a_sentence(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(GridwatchError) as caught:
        require_loopback(host)
    assert caught.value.code == "web.not_loopback"


async def test_server_refuses_to_listen_elsewhere_and_names_a_taken_port(app: FastAPI, server: WebServer) -> None:
    with pytest.raises(GridwatchError, match=r"not_loopback"):
        await WebServer(app, "0.0.0.0", 0).__aenter__()
    with pytest.raises(GridwatchError, match=r"port_taken.*" + str(server.port)):
        await WebServer(app, "127.0.0.1", server.port).__aenter__()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8480", "127.0.0.1.nip.io", "", "192.168.0.1:8480"])
async def test_foreign_host_is_refused(api: httpx.AsyncClient, host: str) -> None:
    answer = await api.get("/api/v1/cases", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "web.foreign_host")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"origin": "http://127.0.0.1:8480"}, 404),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 404),
    ],
)
async def test_changes_from_other_sites_are_refused(
    api: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    step = {"step": "verify", "expected_revision": 1}
    path = "/api/v1/cases/00000000-0000-0000-0000-000000000000/steps"
    assert (await api.post(path, json=step, headers=headers)).status_code == status


async def test_every_answer_carries_the_security_headers(api: httpx.AsyncClient) -> None:
    for path in ("/", "/static/app.js", "/api/v1/cases", "/nothing", "/healthz"):
        headers = (await api.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"]


def test_page_has_no_inline_script_or_style_and_nothing_from_outside() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"\son\w+=|\sstyle=|<style", html)
    assert not re.findall(r"(?:src|href)=\"(?!/static/|#)", html)
    for script in STATIC.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert "innerHTML" not in text, script
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), script


def test_vendored_files_are_what_was_recorded() -> None:
    record = json.loads((STATIC / "vendor/VENDORED.json").read_text())
    assert record["leaflet"]["version"] == "1.9.4"
    recorded = set()
    for name, entry in record.items():
        assert entry["licence"]
        for file, wanted in entry["files"].items():
            path = STATIC / "vendor" / name / file
            recorded.add(path)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted, path
    present = {path for path in (STATIC / "vendor").rglob("*") if path.is_file() and path.name != "VENDORED.json"}
    assert present == recorded


def test_both_languages_have_the_same_words() -> None:
    text = (STATIC / "words.js").read_text(encoding="utf-8")
    for table in ("WORDS", "STATES", "STEPS", "ACTIONS"):
        body = text.split(f"const {table} = {{", 1)[1].split("\n};", 1)[0]
        chinese, english = body.split("  en: {", 1)
        names = [
            set(re.findall(r"(?:^\s+|, |\{ )(\w+): (?=[\"(`])", part, re.MULTILINE)) for part in (chinese, english)
        ]
        assert names[0] == names[1], names[0] ^ names[1]
        used = {name for script in STATIC.glob("*.js") for name in _words_used(script.read_text(encoding="utf-8"))}
        if table == "WORDS":
            used |= set(
                re.findall(r"data-word(?:-\w+)?=\"(\w+)\"", (STATIC / "index.html").read_text(encoding="utf-8"))
            )
            assert used <= names[0], used - names[0]


def _words_used(script: str) -> list[str]:
    return re.findall(r"\bword\(\"(\w+)\"", script)


async def test_reference_pages_are_current(app: FastAPI) -> None:
    for name, page in (("rights.md", rights_page(app)), ("api.md", api_page(app))):
        stored = (ROOT / "docs/ref" / name).read_text(encoding="utf-8")
        assert stored == page, f"docs/ref/{name} is out of date: .venv/bin/python -m command.web.reference"
