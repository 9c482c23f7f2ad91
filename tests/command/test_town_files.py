"""Edits are found by content, whatever an editor does, and a bad one is refused whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from command.accepted_town import AcceptedTown, TownFile
from command.town_files import TownFiles

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    streams, grids = tmp_path / "streams.yaml", tmp_path / "grids.geojson"
    head, _, rest = (ROOT / "streams.yaml").read_text(encoding="utf-8").partition("cameras:\n")
    first_two = "  - id".join(("\n" + rest).split("  - id")[:3])
    streams.write_text(f"{head}cameras:{first_two}", encoding="utf-8")
    shutil.copy(ROOT / "grids.geojson", grids)
    return streams, grids


def settled(files: TownFiles) -> bool:
    """What a loop would see within two looks."""
    return files.changed() or files.changed()


def test_only_new_content_that_has_settled_is_a_change(paths: tuple[Path, Path]) -> None:
    streams, grids = paths
    files = TownFiles(streams, grids)
    assert files.read().errors == []
    assert not settled(files)
    os.utime(streams)
    assert not settled(files)  # touched, the same
    text = streams.read_text(encoding="utf-8")
    half = streams.with_suffix(".swp")
    half.write_text(text + "# a word\n", encoding="utf-8")
    half.replace(streams)
    assert not files.changed() and files.changed()  # the first look only notes it
    assert files.read().errors == []
    assert not settled(files)
    streams.write_text(text[: len(text) // 2], encoding="utf-8")  # written in two steps
    assert not files.changed()
    streams.write_text(text, encoding="utf-8")
    assert not files.changed() and files.changed()
    files.read()
    streams.unlink()
    assert settled(files)
    assert files.read().errors[0].code == "file.missing"
    assert not settled(files)  # judged: told once


def test_a_bad_edit_names_file_line_and_what_is_wrong(paths: tuple[Path, Path]) -> None:
    streams, grids = paths
    streams.write_text(streams.read_text(encoding="utf-8").replace("lat: ", "lat: 9", 1), encoding="utf-8")
    refusal = TownFiles(streams, grids).read().refusal
    assert refusal is not None
    assert (refusal.file, refusal.count) == (str(streams), 1)
    assert "lat" in streams.read_text(encoding="utf-8").splitlines()[refusal.line - 1]
    assert refusal.first_zh != refusal.first_en


def test_what_is_published_is_what_was_read_and_for_this_user_alone(paths: tuple[Path, Path], tmp_path: Path) -> None:
    streams, grids = paths
    text = streams.read_text(encoding="utf-8").replace("rtsp://", "rtsp://viewer:geheim@", 1)
    streams.write_text(text, encoding="utf-8")
    read = TownFiles(streams, grids).read()
    assert read.streams is not None
    cameras = read.streams.cameras
    workers = {camera.id: "worker-1" for camera in cameras}
    town = AcceptedTown(generation=1, streams=read.streams, worker_names=("worker-1",), workers=workers)
    TownFile(tmp_path).publish(town, read.grids_bytes)
    seen = TownFile(tmp_path).read()
    assert seen.cameras_of("worker-1") == cameras and seen.cameras_of("worker-2") == []
    assert any(camera.main.credentials for camera in seen.streams.cameras)
    assert TownFile(tmp_path).read_grids() == read.grids
    assert (tmp_path / "town.json").stat().st_mode & 0o777 == 0o600
