"""What `gridwatch check` finds: each file by itself, then the two together. Reads only; never raises for content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command.check_live import Measured
from command.grid_match import GridIndex
from command.grid_tiling import find_gaps, find_overlaps
from command.grids import Grids, read_grids
from ingest.errors import LANGUAGES, GridwatchError
from ingest.source_lines import Problem
from ingest.streams import Streams, read_streams


@dataclass
class Report:
    """All that was found, in the order of files and lines."""

    files: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    cameras: int | None = None  # how many are good; None: no such file was given
    grids: int | None = None
    places_checked: bool = False  # cameras against grids; not while a grid is broken
    streams: Streams | None = None  # the good cameras
    measured: list[Measured] | None = None  # None: no camera was asked

    @property
    def errors(self) -> int:
        """How many problems forbid to use the files."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """How many problems only deserve a look."""
        return len(self.problems) - self.errors

    @property
    def ok(self) -> bool:
        """No errors; warnings do not count."""
        return self.errors == 0

    def as_json(self) -> dict[str, Any]:
        """The report for programs: both languages, stable codes."""
        return {
            "ok": self.ok,
            "files": self.files,
            "cameras": self.cameras,
            "grids": self.grids,
            "places_checked": self.places_checked,
            "measured": None if self.measured is None else [one.as_json() for one in self.measured],
            "errors": self.errors,
            "warnings": self.warnings,
            "problems": [
                {
                    "file": problem.file,
                    "line": problem.line,
                    "severity": problem.severity,
                    "subject": None
                    if problem.subject is None
                    else dict(zip(("kind", "id"), problem.subject, strict=True)),
                    "code": problem.code,
                    "facts": problem.facts,
                    "sentence": {lang: problem.sentence(lang) for lang in LANGUAGES},
                }
                for problem in self.problems
            ],
        }


def check_files(paths: list[Path]) -> Report:
    """Check up to one file of cameras (.yaml, .yml) and one of grids (.geojson, .json).

    Raises:
        GridwatchError: `check.which_kind` for another name, `check.two_of_a_kind` for two of one kind.
    """
    report = Report(files=[str(path) for path in paths])
    streams_path = _one_of(paths, (".yaml", ".yml"))
    grids_path = _one_of(paths, (".geojson", ".json"))
    for path in paths:
        if path not in (streams_path, grids_path):
            raise GridwatchError("check.which_kind", file=str(path))
    streams: Streams | None = None
    grids: Grids | None = None
    all_grids_good = False
    if streams_path is not None:
        streams, problems = read_streams(streams_path)
        report.cameras = len(streams.cameras) if streams else 0
        report.streams = streams
        report.problems += problems
    if grids_path is not None:
        grids, problems = read_grids(grids_path)
        all_grids_good = not any(problem.severity == "error" for problem in problems)
        if grids is not None:
            problems += check_tiling(grids, str(grids_path))
        report.grids = len(grids.features) if grids else 0
        report.problems += problems
    if streams is not None and grids is not None and all_grids_good and streams_path is not None:
        report.places_checked = True
        report.problems += check_places(streams, grids, streams_path)
    order = {str(path): number for number, path in enumerate((streams_path, grids_path))}
    report.problems.sort(key=lambda problem: (order.get(problem.file, 9), problem.line))
    return report


def check_tiling(grids: Grids, file: str) -> list[Problem]:
    """Overlaps (errors) and gaps (warnings)."""
    found = []
    for overlap in find_overlaps(grids.features):
        facts = {
            "other": overlap.first,
            "other_line": grids.line(overlap.first),
            "area_m2": round(overlap.area_m2),
            "lon": overlap.lon,
            "lat": overlap.lat,
        }
        found.append(Problem(file, grids.line(overlap.second), "grid.overlaps", facts, ("grid", overlap.second)))
    for gap in find_gaps(grids.features):
        facts = {"area_m2": round(gap.area_m2), "lon": gap.lon, "lat": gap.lat}
        found.append(Problem(file, grids.line(gap.beside), "grid.gap", facts, ("grid", gap.beside), "warning"))
    return found


def check_places(streams: Streams, grids: Grids, streams_path: Path) -> list[Problem]:
    """Cameras outside every grid (errors), and in a grid of another village (warnings)."""
    index = GridIndex(grids)
    found = []
    for camera in streams.cameras:
        grid_id, how = index.match(camera.lon, camera.lat, camera.village)
        line = streams.line(camera.id)
        subject = ("camera", camera.id)
        if how != "inside" or grid_id is None:
            facts = {"lon": camera.lon, "lat": camera.lat, "village": camera.village, "nearest": grid_id or ""}
            code = "camera.no_grid" if grid_id else "camera.no_grid_no_village"
            found.append(Problem(str(streams_path), line, code, facts, subject))
        elif (other := grids.grid(grid_id).village) != camera.village:
            facts = {"village": camera.village, "grid": grid_id, "grid_village": other}
            found.append(Problem(str(streams_path), line, "camera.other_village", facts, subject, "warning"))
    return found


def _one_of(paths: list[Path], endings: tuple[str, ...]) -> Path | None:
    found = [path for path in paths if path.suffix.lower() in endings]
    if len(found) > 1:
        raise GridwatchError("check.two_of_a_kind", first=str(found[0]), second=str(found[1]))
    return found[0] if found else None
