"""The town as it was accepted: what every child process works by, and which worker has which camera.

Life cycle: the supervisor reads the user's files, publishes them here at start and after each reload, and children
look for a newer generation. So a bad edit reaches nobody, not even a process that is started again, and nobody but the
supervisor spends a second on parsing YAML. `town.json` holds resolved camera URLs and is for this user alone (0600, in
the run folder, which is in memory where the system has such a place and goes with the town).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from command.grids import Grids, read_grids
from ingest.camera import Camera
from ingest.streams import Streams


class Refusal(BaseModel):
    """An edit that was not taken: where its first error is, in both languages."""

    model_config = ConfigDict(frozen=True)
    file: str
    line: int
    count: int
    first_zh: str
    first_en: str


class AcceptedTown(BaseModel):
    """`generation` grows by one with each publication that changes what children do."""

    model_config = ConfigDict(frozen=True)
    generation: int
    streams: Streams
    worker_names: tuple[str, ...]
    workers: dict[str, str]  # camera id to worker name
    refused: Refusal | None = None

    def cameras_of(self, worker: str) -> list[Camera]:
        """The cameras of one worker, in the file's order."""
        return [camera for camera in self.streams.cameras if self.workers.get(camera.id) == worker]


class TownFile:
    """The published town in a run folder: the supervisor's pen, the children's glasses."""

    def __init__(self, run: Path) -> None:
        self._path = run / "town.json"
        self._grids = run / "town.geojson"
        self._seen: tuple[int, int] | None = None
        self._town: AcceptedTown | None = None

    def publish(self, town: AcceptedTown, grids: bytes | None = None) -> None:
        """Replace what children see, whole. `grids` is the accepted file's content; None leaves it as it is."""
        if grids is not None:
            _replace(self._grids, grids)
        body = town.model_dump(mode="json")
        for shown, camera in zip(body["streams"]["cameras"], town.streams.cameras, strict=True):
            shown["main"] = camera.main.reveal()
            shown["sub"] = camera.sub.reveal() if camera.sub is not None else None
        _replace(self._path, _json(body))

    def read(self) -> AcceptedTown:
        """What is published; parsed again only when it has changed (one `stat` otherwise).

        Raises:
            FileNotFoundError: nothing is published yet.
        """
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_ino)
        if self._town is None or seen != self._seen:
            self._town = AcceptedTown.model_validate_json(self._path.read_bytes())
            self._seen = seen
        return self._town

    def read_grids(self) -> Grids:
        """The accepted grids."""
        grids, _ = read_grids(self._grids)
        assert grids is not None  # nothing else is ever published
        return grids


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _replace(path: Path, content: bytes) -> None:
    half = path.with_suffix(path.suffix + ".new")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    half.replace(path)
