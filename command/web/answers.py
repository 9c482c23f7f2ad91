"""Refusals as JSON: `{"code", "message", "message_en", "detail"}`, the message in the caller's language."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

STATUS: dict[str, int] = {
    "web.unknown_camera": 404,
    "web.unknown_event": 404,
    "web.unknown_case": 404,
    "web.unknown_task": 404,
    "web.unknown_evidence": 404,
    "web.unknown_path": 404,
    "web.wrong_method": 405,
    "web.case_moved_on": 409,
    "web.step_not_allowed": 409,
    "web.nobody_to_send": 409,
    "web.unknown_step": 422,
    "web.note_needed": 422,
    "web.failed": 500,
    "web.too_large": 413,
    "web.not_sdp": 415,
    "web.bad_request": 422,
    "web.bad_span": 422,
    "store.bad_cursor": 422,
    "web.database_away": 503,
    "web.media_away": 503,
    "web.live_full": 503,
}


class Problem(BaseModel):
    """What every refusal looks like."""

    code: str
    message: str
    message_en: str
    detail: dict[str, Any] = {}


def language(connection: HTTPConnection) -> str:
    """`?lang=`, else the first of zh/en in Accept-Language, else the server's language."""
    asked = connection.query_params.get("lang", "").lower()[:2]
    if asked in ("zh", "en"):
        return asked
    for part in connection.headers.get("accept-language", "").split(","):
        tag = part.strip().lower()[:2]
        if tag in ("zh", "en"):
            return tag
    app = connection.scope.get("app")
    return "en" if app is not None and app.state.gridwatch.settings.lang.startswith("en") else "zh"


def problem(
    connection: HTTPConnection,
    error: GridwatchError,
    status: int,
    detail: dict[str, Any] | None = None,
    sentences: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer for an error; `sentences` stand for its own where another process has already made them."""
    lang = language(connection)
    said = sentences or {lang: error.sentence(lang), "en": error.sentence("en")}
    body = Problem(
        code=error.code,
        message=said[lang],
        message_en=said["en"],
        detail=detail or {},
    )
    return JSONResponse(body.model_dump(), status)


async def _gridwatch_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GridwatchError)
    detail = error.facts.get("detail")
    return problem(request, error, STATUS.get(error.code, 400), detail if isinstance(detail, dict) else None)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    code = {404: "web.unknown_path", 405: "web.wrong_method", 413: "web.too_large"}.get(error.status_code)
    answer = problem(
        request,
        GridwatchError(
            code or "web.bad_request", limit_kib=64, path=path, method=request.method, why=str(error.detail)
        ),
        error.status_code,
    )
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = {".".join(str(step) for step in found["loc"]): found["msg"] for found in error.errors()}
    why = "; ".join(f"{name}: {message}" for name, message in fields.items())
    return problem(request, GridwatchError("web.bad_request", why=why), 422, {"fields": fields})


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.warning("database away", extra={"path": request.url.path, "error": str(error)})
    answer = problem(request, GridwatchError("web.database_away"), 503)
    answer.headers["retry-after"] = "2"
    return answer


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return problem(request, GridwatchError("web.failed", path=request.url.path), 500)


def answer_errors(app: FastAPI) -> None:
    """Every way in which a request can fail ends as a `Problem`."""
    app.add_exception_handler(GridwatchError, _gridwatch_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    for away in (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TooManyRequests):
        app.add_exception_handler(away, _database_away)
    app.add_exception_handler(Exception, _failed)
