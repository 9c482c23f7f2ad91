"""Control calls: a small HTTP interface of the simulated town on 127.0.0.1, to set faults from outside the process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingest.errors import GridwatchError
from ingest.simulate.fault import Fault

if TYPE_CHECKING:
    from ingest.simulate.live_camera import LiveCamera
    from ingest.simulate.town import SimulatedTown


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process that runs the town ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ControlServer:
    """Started and stopped by the town. Foreign Host headers are refused, so that no web page can reach it by DNS."""

    def __init__(self, town: SimulatedTown, host: str, port: int) -> None:
        self._town = town
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise GridwatchError("simulate.port_taken", port=port, why=error.strerror or error) from error
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        app = Starlette(
            routes=[
                Route("/cameras", self._list, methods=["GET"]),
                Route("/cameras/{camera}", self._show, methods=["GET"]),
                Route("/cameras/{camera}/fault", self._set_fault, methods=["PUT"]),
                Route("/cameras/{camera}/fault", self._clear, methods=["DELETE"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])],
            exception_handlers={GridwatchError: _unknown},
        )
        config = uvicorn.Config(app, lifespan="off", access_log=False, log_config=None, log_level="warning")
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve; the port is open when this returns."""
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="simulator's control port")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """End open calls and close the port."""
        self._server.should_exit = self._server.force_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()

    def _facts(self, camera: LiveCamera) -> dict[str, Any]:
        town, config = self._town, camera.config
        return {
            "id": config.id,
            "scene": config.scene,
            "scene_time_s": round(town.scene_time_s(config.id), 3),
            "playing": town.playing(config.id),
            "fault": camera.fault.fault.model_dump(mode="json") if camera.fault else None,
            "streams": {name: asdict(counters) for name, counters in camera.counters.items()},
        }

    async def _list(self, request: Request) -> Response:
        return JSONResponse([self._facts(camera) for camera in self._town.cameras])

    async def _show(self, request: Request) -> Response:
        return JSONResponse(self._facts(self._camera(request)))

    async def _set_fault(self, request: Request) -> Response:
        camera = self._camera(request)
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            problems = [{"where": list(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()]
            return JSONResponse({"code": "simulate.bad_fault", "problems": problems}, 422)
        self._town.set_fault(camera.config.id, fault)
        return JSONResponse(self._facts(camera))

    async def _clear(self, request: Request) -> Response:
        camera = self._camera(request)
        self._town.clear(camera.config.id)
        return JSONResponse(self._facts(camera))

    def _camera(self, request: Request) -> LiveCamera:
        camera_id = request.path_params["camera"]
        found = self._town.live(camera_id)
        if found is None:
            raise GridwatchError("simulate.unknown_camera", camera=camera_id)
        return found


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, GridwatchError)
    return JSONResponse({"code": error.code, "zh": error.sentence("zh"), "en": error.sentence("en")}, 404)
