from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from analytics.clip import analyse_clip, clip_keyframes
from analytics.evidence import EvidenceStore
from ingest.errors import GridwatchError

BEGINS_AT = datetime(2026, 1, 1, 4, 0, tzinfo=UTC)


def test_the_pedestrian_clip_holds_exactly_one_intrusion(detector, vtest_path, make_camera, tmp_path: Path):
    store, told = EvidenceStore(tmp_path), []
    watch = analyse_clip(vtest_path, make_camera(), told.append, detector, store, begins_at=BEGINS_AT)
    assert [event.state for event in told] == ["opened", "updated", "closed"]
    assert len({event.id for event in told}) == 1
    closed = told[-1]
    assert closed.started_at == BEGINS_AT + timedelta(seconds=52)
    assert closed.ended_at == BEGINS_AT + timedelta(seconds=64)
    assert closed.attributes["closed_because"] == "cleared"
    assert closed.attributes["most_at_once"] == 2
    assert 0.9 < closed.score <= 1
    best = closed.evidence[0]
    picture = cv2.imdecode(np.fromfile(store.path(best.sha256), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (best.height, best.width, 3) == (576, 768, 3)
    assert watch.counters.detector_runs == 40


def test_nobody_is_reported_outside_the_hours_and_nothing_is_detected(detector, vtest_path, make_camera, tmp_path):
    told = []
    camera = make_camera(active_hours=["18:00-06:00"])
    watch = analyse_clip(vtest_path, camera, told.append, detector, EvidenceStore(tmp_path), begins_at=BEGINS_AT)
    assert told == []
    assert watch.counters.detector_runs == 0


def test_an_intrusion_that_outlasts_the_clip_is_closed_at_its_end(detector, vtest_path, make_camera, tmp_path: Path):
    told = []
    camera = make_camera(classes=["car"])
    whole = camera.zones[0].model_copy(update={"polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]})
    camera = camera.model_copy(update={"zones": [whole]})
    analyse_clip(vtest_path, camera, told.append, detector, EvidenceStore(tmp_path), BEGINS_AT, every_s=10)
    assert [told[0].state, told[-1].state] == ["opened", "closed"]
    assert {event.state for event in told[1:-1]} == {"updated"}  # two parked cars: told every 10 s
    assert told[-1].attributes["closed_because"] == "stopped"


@pytest.mark.parametrize("content", [b"", b"no clip at all" * 100])
def test_a_file_that_is_no_clip_is_refused_with_a_sentence(tmp_path: Path, content: bytes):
    (tmp_path / "x.mp4").write_bytes(content)
    for name in ("x.mp4", "missing.mp4"):
        with pytest.raises(GridwatchError, match=r"picture\.bad_clip") as caught:
            list(clip_keyframes(tmp_path / name, BEGINS_AT))
        assert name in caught.value.sentence("zh")
