"""WHEP: offers go on to the media process over its unix socket; no picture ever passes through this process."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Literal
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Request, Response

from command.web.answers import problem
from command.web.reach import State
from command.web.rights import right
from command.web.state import AppState
from ingest.errors import GridwatchError

router = APIRouter(prefix="/api/v1/cameras", tags=["cameras"])

ANSWER_S = 15.0
_SESSION = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_SDP: dict[str, Any] = {"content": {"application/sdp": {"schema": {"type": "string"}}}}


@router.post(
    "/{camera_id}/whep",
    status_code=201,
    response_class=Response,
    responses={201: {**_SDP, "description": "The answer; `Location` is the session to DELETE at the end."}},
    openapi_extra={"requestBody": {**_SDP, "required": True}},
    dependencies=[right("cameras.watch")],
)
async def start_watching(
    camera_id: str, request: Request, state: State, stream: Literal["main", "sub"] = "main"
) -> Response:
    """Open a live picture (WHEP, receive-only H.264, the camera's own packets)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/sdp":
        raise GridwatchError("web.not_sdp")
    offer = await request.body()
    target = f"/whep/{quote(camera_id, safe='')}/{stream}"
    answer = await _ask(state, "POST", target, offer, {"content-type": "application/sdp"})
    if answer.status_code != 201:
        return _refusal(request, answer)
    session = answer.headers.get("location", "").rpartition("/")[2]
    headers = {
        "location": f"/api/v1/cameras/{quote(camera_id, safe='')}/whep/{session}",
        "access-control-expose-headers": "location",
    }
    headers.update({name: answer.headers[name] for name in ("etag", "link") if name in answer.headers})
    return Response(answer.content, 201, headers, "application/sdp")


@router.delete("/{camera_id}/whep/{session_id}", dependencies=[right("cameras.watch")])
async def stop_watching(camera_id: str, session_id: str, request: Request, state: State) -> Response:
    """End a live picture."""
    if not _SESSION.match(session_id):
        raise GridwatchError("web.unknown_path", path=request.url.path[:200])
    answer = await _ask(state, "DELETE", f"/whep/sessions/{session_id}", b"", {})
    return Response(status_code=200) if answer.is_success else _refusal(request, answer)


async def _ask(state: AppState, method: str, target: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(state.media_socket))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://media", timeout=ANSWER_S) as client:
            return await client.request(method, target, content=body, headers=headers)
    except httpx.HTTPError as error:
        raise GridwatchError("web.media_away", why=type(error).__name__) from error


def _refusal(request: Request, answer: httpx.Response) -> Response:
    """The media process's refusal in this API's form: its code and its sentence in the caller's language."""
    body: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        body = answer.json()
    code = str(body.get("code", "web.media_away"))
    made = problem(
        request,
        GridwatchError(code, why=f"HTTP {answer.status_code}", camera=request.path_params.get("camera_id", "")),
        answer.status_code,
        {"other_ways": body.get("other_ways", [])},
        sentences=body.get("sentence"),
    )
    if "retry-after" in answer.headers:
        made.headers["retry-after"] = answer.headers["retry-after"]
    return made
