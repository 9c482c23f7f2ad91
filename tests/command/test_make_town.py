"""The synthetic town: made again byte for byte, tiles exactly, and its schemas follow the models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely

from command.check import check_files
from command.file_schemas import schemas
from command.grids import Grids, load_grids
from command.make_town import make_town
from ingest.streams import Streams, load_streams

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def grids() -> Grids:
    return load_grids(ROOT / "grids.geojson")


@pytest.fixture(scope="module")
def streams() -> Streams:
    return load_streams(ROOT / "streams.yaml")


def test_the_same_seed_makes_the_committed_bytes(tmp_path: Path) -> None:
    # In a process of its own, with another hash seed: nothing may hang on the order of a set.
    made = [sys.executable, "-m", "command.make_town", "--out", str(tmp_path)]
    subprocess.run(made, check=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": "1"})
    for name in ("streams.yaml", "grids.geojson"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), f"run scripts/make_town: {name}"


def test_other_seeds_make_other_towns_that_are_right_too(tmp_path: Path) -> None:
    for seed, cameras in ((1, 32), (2, 256)):
        for name, text in zip(("streams.yaml", "grids.geojson"), make_town(seed, cameras), strict=True):
            (tmp_path / name).write_text(text, encoding="utf-8")
        report = check_files([tmp_path / "streams.yaml", tmp_path / "grids.geojson"])
        assert [problem.sentence("en") for problem in report.problems] == []
        assert (report.cameras, report.grids, report.places_checked) == (cameras, 162, True)


def test_what_the_town_holds(streams: Streams, grids: Grids) -> None:
    assert streams.synthetic and grids.synthetic
    assert len(grids.features) == 162 and len(streams.cameras) == 128
    villages = Counter(grid.village for grid in grids.features)
    assert len(villages) == 32 and min(villages.values()) >= 3
    assert set(Counter(camera.village for camera in streams.cameras).values()) == {4}
    assert len({camera.name for camera in streams.cameras}) == 128
    for camera in streams.cameras:
        assert camera.zones and camera.rules and camera.sub is not None and camera.heading_deg is not None
        assert camera.main.reveal() == f"rtsp://127.0.0.1:8554/{camera.id}/main"
    assert all(len(person) == 11 and person.startswith("100") for person in grids.people())
    assert len({grid.roles.patroller.person_id for grid in grids.features}) == 162
    assert len({grid.roles.supervisor.person_id for grid in grids.features}) == 32


def test_grids_tile_exactly_without_gap_or_overlap(grids: Grids) -> None:
    polygons = np.array([grid.polygon for grid in grids.features], dtype=object)
    assert shapely.coverage_is_valid(polygons)  # neighbours share every corner, T-junctions included
    whole = shapely.coverage_union_all(polygons)
    assert isinstance(whole, shapely.Polygon) and not whole.interiors
    assert sum(polygon.area for polygon in polygons) == pytest.approx(whole.area, rel=1e-12)
    for village in {grid.village for grid in grids.features}:
        members = [grid.polygon for grid in grids.features if grid.village == village]
        assert shapely.coverage_union_all(members).geom_type == "Polygon"  # a village is one piece


@pytest.mark.parametrize("name", sorted(schemas()))
def test_schemas_follow_the_models(name: str) -> None:
    assert (ROOT / "docs/ref" / name).read_text(encoding="utf-8") == schemas()[name], "run scripts/make_schemas"
