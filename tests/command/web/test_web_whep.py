"""The WHEP proxy against a real ASGI app on a unix socket that answers as the media process does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SDP = {"content-type": "application/sdp"}


@pytest.fixture
async def media(town: Any) -> AsyncIterator[list[str]]:
    """What the media process was asked."""
    asked: list[str] = []

    async def start(request: Request) -> Response:
        camera, stream = request.path_params["camera"], request.path_params["stream"]
        asked.append(f"POST {camera} {stream} {(await request.body()).decode()}")
        if camera == "c-003":
            sentence = {"zh": "没有画面", "en": "no picture"}
            body = {"code": "wall.h265", "sentence": sentence, "other_ways": ["keyframes"]}
            return JSONResponse(body, 406, {"Retry-After": "9"})
        return Response("v=0 answer", 201, {"Location": "/whep/sessions/s-1", "ETag": '"e"'}, "application/sdp")

    async def end(request: Request) -> Response:
        asked.append(f"DELETE {request.path_params['session']}")
        return Response(status_code=200)

    app = Starlette(
        routes=[
            Route("/whep/sessions/{session}", end, methods=["DELETE"]),
            Route("/whep/{camera}/{stream}", start, methods=["POST"]),
        ]
    )
    path: Path = town.folder / "media.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve([listener]))
    yield asked
    server.should_exit = True
    await serving


async def test_offer_goes_on_and_the_session_is_named_here(media: list[str], api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v1/cameras/c-001/whep", content="v=0 offer", headers=SDP)
    assert (answer.status_code, answer.text) == (201, "v=0 answer")
    assert answer.headers["content-type"] == "application/sdp"
    assert answer.headers["location"] == "/api/v1/cameras/c-001/whep/s-1"
    assert (await api.delete(answer.headers["location"])).status_code == 200
    assert media == ["POST c-001 main v=0 offer", "DELETE s-1"]


async def test_refusal_keeps_its_code_sentence_and_other_ways(media: list[str], api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v1/cameras/c-003/whep?stream=sub&lang=en", content="v=0", headers=SDP)
    assert answer.status_code == 406
    assert answer.json() == {
        "code": "wall.h265",
        "message": "no picture",
        "message_en": "no picture",
        "detail": {"other_ways": ["keyframes"]},
    }
    assert answer.headers["retry-after"] == "9"


async def test_what_is_no_offer_never_reaches_the_media_process(media: list[str], api: httpx.AsyncClient) -> None:
    assert (await api.post("/api/v1/cameras/c-001/whep", json={})).json()["code"] == "web.not_sdp"
    assert (await api.delete("/api/v1/cameras/c-001/whep/..%2fstats")).status_code == 404
    assert (await api.delete("/api/v1/cameras/c-001/whep/a.b")).status_code == 404
    foreign = await api.post("/api/v1/cameras/c-001/whep", content="v=0", headers={**SDP, "origin": "http://evil"})
    assert foreign.status_code == 403
    assert media == []


async def test_camera_name_stays_one_path_segment(media: list[str], api: httpx.AsyncClient) -> None:
    await api.post("/api/v1/cameras/a%3Fb%23c/whep", content="v=0", headers=SDP)
    assert media == ["POST a?b#c main v=0"]


async def test_media_process_away_is_said(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/v1/cameras/c-001/whep", content="v=0", headers=SDP)
    assert (answer.status_code, answer.json()["code"]) == (503, "web.media_away")
