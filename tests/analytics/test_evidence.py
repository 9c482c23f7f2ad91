from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from analytics.evidence import EvidenceStore, write_durably
from analytics.last_pictures import LastPictures
from analytics.open_events import OpenEvents
from analytics.timeline import MediaTimeline
from ingest.access_unit import AccessUnit, StreamFormat
from ingest.event import Event, new_id

AT = datetime(2026, 1, 1, 4, 0, 7, 250_000, tzinfo=UTC)


def test_evidence_is_found_by_its_content_and_stored_once(tmp_path: Path):
    store = EvidenceStore(tmp_path / "evidence")
    evidence = store.save_jpeg(b"jpeg", AT, 640, 360)
    assert evidence.sha256 == hashlib.sha256(b"jpeg").hexdigest()
    assert (evidence.taken_at, evidence.width, evidence.height) == (AT, 640, 360)
    path = store.path(evidence.sha256)
    assert path.read_bytes() == b"jpeg"
    assert path.relative_to(tmp_path / "evidence").parts[:2] == (evidence.sha256[:2], evidence.sha256[2:4])
    written = path.stat().st_mtime_ns
    assert store.save_jpeg(b"jpeg", AT, 640, 360) == evidence
    assert path.stat().st_mtime_ns == written
    assert [each.name for each in tmp_path.rglob("*.*")] == [path.name]


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 64, "a" * 63])
def test_no_outside_string_becomes_a_path(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="sha256"):
        EvidenceStore(tmp_path).path(name)


def test_a_disk_that_refuses_leaves_nothing_half_written(tmp_path: Path):
    (tmp_path / "in the way" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_durably(tmp_path / "in the way", b"jpeg")
    assert [path.name for path in tmp_path.iterdir()] == ["in the way"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        EvidenceStore(tmp_path / "file").save_jpeg(b"jpeg", AT, 2, 2)


def test_the_same_picture_from_many_cameras_at_once(tmp_path: Path):
    store = EvidenceStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        saved = {
            each for n in range(20) for each in pool.map(lambda _, n=n: store.save_jpeg(b"%d" % n, AT, 2, 2), range(8))
        }
    assert len(saved) == 20
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 20


def test_last_picture_and_its_time_change_together(tmp_path: Path):
    pictures = LastPictures(tmp_path / "run")
    assert pictures.get("c-1") is None
    assert pictures.taken_at("c-1") is None
    pictures.put("c-1", b"one", AT)
    pictures.put("c-1", b"two", AT.replace(second=8))
    assert pictures.get("c-1") == (b"two", AT.replace(second=8))
    assert pictures.taken_at("c-1") == AT.replace(second=8)
    pictures.put("../c-2", b"three", AT)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["..%2Fc-2.jpg", "c-1.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    pictures.remove("c-1")
    pictures.remove("c-1")
    assert pictures.get("c-1") is None


def an_event(**changes: object) -> Event:
    known = {"id": new_id(), "epoch": 3, "number": 4, "state": "updated", "code": "5.6", "camera_id": "c-1"}
    return Event.model_validate({**known, "started_at": AT, "updated_at": AT, **changes})


def test_what_was_left_open_is_closed_by_the_next_start_until_told(tmp_path: Path):
    path = tmp_path / "state" / "open.json"
    first, second = an_event(attributes={"looks": 2}), an_event()
    before = OpenEvents(path)
    assert before.left_open(3, AT) == []
    before.put(first)
    before.put(second)
    before.remove(second.id)
    later = AT.replace(minute=5)
    for epoch in (4, 5):  # epoch 4 died before it had told anybody
        after = OpenEvents(path)
        (closed,) = after.left_open(epoch, later)
        assert (closed.id, closed.state, closed.order()) == (first.id, "closed", (epoch, 1))
        assert closed.order() > first.order()
        assert (closed.started_at, closed.ended_at, closed.updated_at) == (AT, AT, later)
        assert closed.attributes == {"looks": 2, "closed_because": "interrupted"}
    after.remove(first.id)
    assert OpenEvents(path).left_open(6, later) == []


def test_an_unreadable_file_of_open_events_is_put_aside(tmp_path: Path):
    path = tmp_path / "open.json"
    path.write_bytes(b'[{"id": ')
    events = OpenEvents(path)
    assert events.left_open(1, AT) == []
    assert (tmp_path / "open.unreadable").exists()
    events.put(an_event())
    assert len(OpenEvents(path).left_open(2, AT)) == 1


def unit(pts_s: float, received_s: float, discontinuity: bool = False) -> AccessUnit:
    form = StreamFormat("h264", b"", b"", None, 2, 2, "", 0)
    pts_90k = round(pts_s * 90_000)
    return AccessUnit(b"", (), pts_90k, pts_90k, True, 0.0, received_s, form, 0, discontinuity)


def test_media_time_rules_as_long_as_it_is_believable():
    line = MediaTimeline()
    steps = [
        (unit(100, 5), 0),
        (unit(102, 7.4), 2),  # late by the network: media time counts
        (unit(104, 9), 4),
        (unit(104, 10, discontinuity=True), 5),
        (unit(3, 12), 7),  # a new session
        (unit(90_003, 14), 9),  # the camera's clock jumped
        (unit(90_005, 16), 11),
        (unit(90_035, 46), 41),
    ]
    assert [line.advance(each) for each, _ in steps] == pytest.approx([expected for _, expected in steps])
