"""Puts the application together: `create_app(state)` gives an app whose every way in has a declared right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, JSONResponse

from command.web.answers import Problem, answer_errors
from command.web.guard import BODY_BYTES, Guard
from command.web.live import LiveHub
from command.web.rights import RightedFiles, refuse_undeclared, right
from command.web.routes import cameras, cases, events, grids, health_history, live, probes, tasks, whep
from command.web.state import AppState

STATIC = Path(__file__).parent / "static"
_PROBLEM: dict[str, Any] = {"model": Problem}


def create_app(state: AppState) -> FastAPI:
    """The application.

    `app.state.live` is the `LiveHub`; it runs within the app's lifespan.

    Raises:
        UndeclaredRouteError: a route, WebSocket or mount declares no right.
    """
    hub = LiveHub(state.conninfo, state.health, state.clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with hub:
            yield

    app = FastAPI(
        title="Gridwatch",
        version=version("gridwatch"),
        description="The town's cameras, grids, events, cases and tasks. `docs/ref/api.md` tells the whole.",
        lifespan=lifespan,
        openapi_url=None,  # served below, with its right
        docs_url=None,  # FastAPI's viewers come from a CDN, which a town without internet never reaches
        redoc_url=None,
        responses={
            404: {**_PROBLEM, "description": "no such thing"},
            422: {**_PROBLEM, "description": "the request is not understood"},
            503: {**_PROBLEM, "description": "a part that is needed does not run"},
        },
    )
    app.state.gridwatch = state
    app.state.live = hub
    answer_errors(app)
    for module in (cameras, health_history, whep, grids, events, cases, tasks, live, probes):
        app.include_router(module.router, max_body_size=BODY_BYTES)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[right("api.describe")])
    async def describe() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/", include_in_schema=False, dependencies=[right("page.open")])
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", RightedFiles("page.open", directory=STATIC), name="static")
    refuse_undeclared(app)
    app.add_middleware(Guard)
    return app
