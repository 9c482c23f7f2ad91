"""streams.yaml: the town's cameras. Every problem told with its line, every good camera kept.

A bad camera never takes more than itself: `read_streams` returns the good ones beside the problems, and the caller
decides (`gridwatch check` reports, start-up goes on without the bad ones, a reload keeps the old file).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ingest.camera import Camera, ObjectClass, Rule, Zone, first_twice
from ingest.errors import GridwatchError
from ingest.model_problems import problems_of, shown
from ingest.recording_settings import Recording
from ingest.secret import SecretUrl
from ingest.secret_source import resolve_secret
from ingest.source_lines import Place, Problem, Source, read_source

__all__ = [
    "Camera",
    "FileRejectedError",
    "ObjectClass",
    "Rule",
    "Streams",
    "Zone",
    "load_streams",
    "read_streams",
    "reject",
]

_CODES = {
    "file.bad_pattern id": "camera.bad_id",
    "file.bad_pattern zones.id": "camera.bad_id",
    "file.bad_pattern rules.id": "camera.bad_id",
    "file.bad_pattern rules.active_hours": "rule.bad_hours",
    "file.out_of_range lat": "camera.bad_latitude",
    "file.out_of_range zones.polygon": "zone.outside_picture",
}


class Streams(BaseModel):
    """The whole of streams.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="streams.yaml")
    synthetic: bool = Field(default=False, description="true: an invented town, no real place or person")
    timezone: str = Field(default="Asia/Shanghai", description="IANA name; active hours are in it")
    recording: Recording = Field(default=Recording(), description="where footage is kept, and how long")
    cameras: list[Camera]
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, malformed, or the name of a folder
            raise PydanticCustomError("streams.bad_timezone", "unknown time zone", {"name": name}) from None
        return name

    @model_validator(mode="after")
    def _unique(self) -> Streams:
        if twice := first_twice(camera.id for camera in self.cameras):
            raise PydanticCustomError("streams.camera_twice", "camera id given twice", {"id": twice})
        return self

    def camera(self, camera_id: str) -> Camera:
        """The camera of an id.

        Raises:
            KeyError: there is none.
        """
        for camera in self.cameras:
            if camera.id == camera_id:
                return camera
        raise KeyError(camera_id)

    def line(self, camera_id: str) -> int:
        """The line of a camera's id in the file that it was read from; 1 if it was made otherwise."""
        return self._lines.get(camera_id, 1)

    @property
    def zone_info(self) -> ZoneInfo:
        """The town's time zone."""
        return ZoneInfo(self.timezone)


def read_streams(
    path: Path, environment: Mapping[str, str] | None = None, shown_as: str | None = None
) -> tuple[Streams | None, list[Problem]]:
    """The good cameras of `path` and all that is wrong with the rest; None only if there is no list of cameras.

    `${NAME}` is taken from `environment` (default: the process's), `file:` from files beside `path`.
    Never raises for what the file holds.
    """
    source, problems = read_source(path, shown_as)
    if source is None:
        return None, problems
    problems = source.duplicate_keys(lambda place: _subject(source, place))
    if not isinstance(source.data, dict) or not isinstance(source.data.get("cameras"), list):
        return None, [*problems, Problem(source.file, source.line(("cameras",)), "streams.no_cameras")]
    env = os.environ if environment is None else environment
    cameras: list[Camera] = []
    first_line: dict[str, int] = {}
    for number, raw in enumerate(source.data["cameras"]):
        place: Place = ("cameras", number)
        camera, wrong = _read_camera(source, place, raw, env, path.parent)
        problems += wrong
        if camera is None:
            continue
        line = source.line((*place, "id"))
        if camera.id in first_line:
            facts = {"first_line": first_line[camera.id]}
            problems.append(Problem(source.file, line, "camera.duplicate_id", facts, ("camera", camera.id)))
            continue
        first_line[camera.id] = line
        cameras.append(camera)
    problems += _same_urls(source, cameras, first_line)
    head = {key: value for key, value in source.data.items() if key != "cameras"}
    try:
        streams = Streams.model_validate({**head, "cameras": cameras})
    except ValidationError as error:
        problems += problems_of(error, source, (), Streams, None)
        streams = Streams(cameras=cameras)
    streams._lines.update(first_line)
    return streams, sorted(problems, key=lambda problem: problem.line)


def load_streams(path: Path) -> Streams:
    """All of `path`, for who cannot go on with less.

    Raises:
        GridwatchError: `file.rejected`, naming the first error and how many there are.
    """
    streams, problems = read_streams(path)
    reject(problems)
    assert streams is not None
    return streams


def reject(problems: list[Problem]) -> None:
    """Raise `file.rejected` if there is an error among the problems; warnings pass."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        first = errors[0]
        raise FileRejectedError(first, len(errors))


class FileRejectedError(GridwatchError):
    """`file.rejected`: its sentence holds the first problem's, in the same language."""

    def __init__(self, first: Problem, count: int) -> None:
        super().__init__("file.rejected", file=first.file, line=first.line, count=count)
        self.first = first

    def sentence(self, lang: str = "zh") -> str:
        """The sentence in `lang`, with the first problem told in full."""
        self.facts["first"] = self.first.sentence(lang)
        return super().sentence(lang)


def _read_camera(
    source: Source, place: Place, raw: Any, env: Mapping[str, str], folder: Path
) -> tuple[Camera | None, list[Problem]]:
    subject = _subject(source, place)
    if not isinstance(raw, dict):
        return None, [
            Problem(source.file, source.line(place), "file.needs_mapping", {"given": shown(raw), "key": ""}, subject)
        ]
    wrong = []
    filled = dict(raw)
    for key in ("main", "sub"):
        if isinstance(raw.get(key), str):
            try:
                filled[key] = resolve_secret(raw[key], env, folder)
            except GridwatchError as error:
                line = source.line((*place, key))
                wrong.append(Problem(source.file, line, error.code, {**error.facts, "key": key}, subject))
                filled[key] = SecretUrl("rtsp://unresolved")  # so that the rest of the camera is checked too
    try:
        camera = Camera.model_validate(filled)
    except ValidationError as error:
        return None, wrong + problems_of(error, source, place, Camera, subject, _CODES)
    return (None if wrong else camera), wrong


def _subject(source: Source, place: Place) -> tuple[str, str] | None:
    """The camera that a place belongs to, by its id, else by its position in the list."""
    if len(place) < 2 or place[0] != "cameras" or not isinstance(place[1], int):
        return None
    raw = source.data["cameras"][place[1]]
    return "camera", shown(raw["id"]) if isinstance(raw, dict) and "id" in raw else f"#{place[1] + 1}"


def _same_urls(source: Source, cameras: list[Camera], lines: dict[str, int]) -> list[Problem]:
    """Warnings for two cameras with one main URL: nearly always a copied entry."""
    first: dict[str, str] = {}
    found = []
    for camera in cameras:
        other = first.setdefault(camera.main.reveal(), camera.id)
        if other != camera.id:
            facts = {"other": other, "first_line": lines[other]}
            subject = ("camera", camera.id)
            found.append(Problem(source.file, lines[camera.id], "camera.same_url", facts, subject, "warning"))
    return found
