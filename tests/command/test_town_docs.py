"""The reference pages of the town's files: their examples load, and no key is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from command.check import check_files
from command.grids import Grid, GridProperties, Grids, Roles, load_grids
from ingest.camera import Camera, Rule, Zone
from ingest.streams import Streams, load_streams

REF = Path(__file__).parents[2] / "docs/ref"


def _example(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (REF / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_examples_load_and_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "x")
    streams, grids = tmp_path / "streams.yaml", tmp_path / "grids.geojson"
    streams.write_text(_example("streams.md", "yaml"), encoding="utf-8")
    grids.write_text(_example("grids.md", "json"), encoding="utf-8")
    assert load_streams(streams).cameras[0].rules[0].active_hours == ["18:00-06:00"]
    assert load_grids(grids).grid("g-001").roles.patroller.name == "陈海涛"
    report = check_files([streams, grids])
    assert report.ok and not report.problems


@pytest.mark.parametrize(
    ("page", "models"),
    [("streams.md", [Streams, Camera, Zone, Rule]), ("grids.md", [Grids, Grid, GridProperties, Roles])],
)
def test_every_key_is_explained(page: str, models: list[type[BaseModel]]) -> None:
    text = (REF / page).read_text(encoding="utf-8")
    for model in models:
        for key in model.model_fields:
            assert re.search(rf"`([a-z]+\.)?{key}\b", text), f"{page} does not explain {model.__name__}.{key}"
