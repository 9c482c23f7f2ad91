from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.detector import Detection
from analytics.rules.rule_state import Sighting
from analytics.rules.zone_intrusion import Hysteresis, ZoneIntrusion
from ingest.event import Box, Evidence

TOWN = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 1, 1, 4, 0, tzinfo=UTC)
INSIDE = Detection("person", 0.8, Box(x=0.3, y=0.7, w=0.1, h=0.2))  # foot at (0.35, 0.9)
OUTSIDE = Detection("person", 0.8, Box(x=0.3, y=0.5, w=0.1, h=0.2))


class Scene:
    """A rule with a clock of its own; every statement is kept."""

    def __init__(self, camera, hysteresis: Hysteresis | None = None, begins_at: datetime = NOON) -> None:
        self.state = ZoneIntrusion(camera, camera.rules[0], TOWN, epoch=7, hysteresis=hysteresis)
        self.begins_at, self.media_s, self.pictures, self.told = begins_at, 0.0, 0, []

    def at(self) -> datetime:
        return self.begins_at + timedelta(seconds=self.media_s)

    def look(self, *found: Detection, after_s: float = 2.0, is_whole: bool = True) -> list[str]:
        self.media_s += after_s
        events = self.state.observe(Sighting(found, self.at(), self.media_s, self.save_picture, is_whole))
        self.told += events
        return [event.state for event in events]

    def save_picture(self) -> Evidence:
        self.pictures += 1
        return Evidence(sha256=f"{self.pictures:064x}", media_type="image/jpeg", taken_at=self.at(), width=2, height=2)


def test_one_event_from_first_to_last_sight(make_camera):
    scene = Scene(make_camera(priority=2))
    assert [scene.look(), scene.look(OUTSIDE), scene.look(INSIDE)] == [[], [], ["opened"]]
    assert [scene.look(INSIDE), scene.look(OUTSIDE), scene.look(INSIDE, INSIDE)] == [[], [], []]
    assert [scene.look(), scene.look(), scene.look(), scene.look(), scene.look()] == [[], [], [], ["closed"], []]
    opened, closed = scene.told
    assert opened.id == closed.id
    assert [opened.order(), closed.order()] == [(7, 1), (7, 2)]
    assert (opened.code, opened.camera_id, opened.rule_id, opened.zone_id) == ("5.6", "c-001", "walk-in", "strip")
    assert (opened.priority, opened.object_class, opened.score, opened.box) == (2, "person", 0.8, INSIDE.box)
    assert (opened.lon, opened.lat, opened.place_from) == (115.83, 38.42, "camera")
    assert opened.started_at == closed.started_at == NOON + timedelta(seconds=6)
    assert closed.ended_at == NOON + timedelta(seconds=12)
    assert closed.updated_at == NOON + timedelta(seconds=20)
    assert closed.attributes == {"looks": 3, "most_at_once": 2, "closed_because": "cleared"}
    assert [picture.sha256 for picture in closed.evidence] == [f"{1:064x}"]


def test_what_does_not_qualify(make_camera):
    scene = Scene(make_camera(classes=["person", "truck"], min_score=0.6))
    box = INSIDE.box
    assert scene.look(OUTSIDE, Detection("person", 0.59, box), Detection("car", 0.9, box)) == []
    assert scene.look(Detection("truck", 0.6, box)) == ["opened"]


def test_the_border_and_the_pictures_edge_belong_to_the_zone(make_camera):
    for foot_y in (0.8, 1.0):
        scene = Scene(make_camera())
        assert scene.look(Detection("person", 0.9, Box(x=0.2, y=foot_y - 0.2, w=0.1, h=0.2))) == ["opened"]


def test_a_clearly_better_look_is_told_with_its_picture_at_once_others_seldom(make_camera):
    scene = Scene(make_camera())
    told = [scene.look(Detection("person", score, INSIDE.box)) for score in (0.6, 0.65, 0.75, 0.8, 0.76, 0.7, 0.7, 0.7)]
    assert told == [["opened"], [], ["updated"], [], [], [], [], ["updated"]]
    better, repeated = scene.told[1:]
    assert (better.score, repeated.score) == (0.75, 0.75)
    assert [picture.sha256 for picture in repeated.evidence] == [f"{2:064x}", f"{1:064x}"]  # best first, then first
    assert scene.look(Detection("person", 0.95, INSIDE.box)) == ["updated"]
    assert [picture.sha256 for picture in scene.told[-1].evidence] == [f"{3:064x}", f"{1:064x}"]
    assert [event.number for event in scene.told] == [1, 2, 3, 4]


def test_the_cooldown_is_silent_and_then_over(make_camera):
    scene = Scene(make_camera(cooldown_s=30))
    scene.look(INSIDE)
    for _ in range(4):
        scene.look()
    assert [event.state for event in scene.told] == ["opened", "closed"]
    assert [scene.look(INSIDE) for _ in range(14)] == [[]] * 14
    assert scene.look(INSIDE) == ["opened"]
    assert scene.told[-1].id != scene.told[0].id


def test_long_gops_need_three_clear_looks_short_ones_eight_seconds(make_camera):
    slow, fast = Scene(make_camera()), Scene(make_camera())
    slow.look(INSIDE)
    assert [slow.look(after_s=10) for _ in range(3)] == [[], [], ["closed"]]
    fast.look(INSIDE)
    assert [fast.look(after_s=1) for _ in range(8)] == [[]] * 7 + [["closed"]]


def test_two_looks_may_be_asked_for(make_camera):
    scene = Scene(make_camera(), Hysteresis(open_looks=2))
    assert [scene.look(INSIDE), scene.look(), scene.look(INSIDE)] == [[], [], []]
    assert scene.state.is_busy
    assert scene.look(INSIDE) == ["opened"]


def test_a_damaged_picture_prolongs_but_neither_opens_nor_clears(make_camera):
    scene = Scene(make_camera())
    assert scene.look(INSIDE, is_whole=False) == []
    assert scene.look(INSIDE) == ["opened"]
    assert [scene.look(is_whole=False) for _ in range(20)] == [[]] * 20
    assert scene.look(INSIDE, is_whole=False) == ["updated"]
    assert scene.pictures == 1


def test_active_hours_over_midnight_in_the_towns_time(make_camera):
    evening = datetime(2026, 1, 1, 17, 59, 50, tzinfo=TOWN)
    scene = Scene(make_camera(active_hours=["18:00-06:00"]), begins_at=evening)
    assert [scene.look(INSIDE, after_s=4), scene.look(INSIDE, after_s=4)] == [[], []]
    assert scene.look(INSIDE, after_s=4) == ["opened"]
    morning = datetime(2026, 1, 2, 5, 59, 59, tzinfo=TOWN)
    assert scene.state.tick(morning) == []
    (closed,) = scene.state.tick(morning + timedelta(seconds=1))
    assert closed.attributes["closed_because"] == "hours_ended"
    assert scene.state.tick(morning + timedelta(seconds=2)) == []


def test_hours_that_end_between_looks_close_at_the_look(make_camera):
    scene = Scene(make_camera(active_hours=["11:00-12:01"]))
    assert scene.look(INSIDE) == ["opened"]
    assert scene.look(INSIDE, after_s=60) == ["closed"]


@pytest.mark.parametrize("because", ["camera_lost", "stopped"])
def test_closed_from_outside_says_why_and_ended_at_the_last_sight(make_camera, because):
    scene = Scene(make_camera())
    assert scene.state.close(because, scene.at()) == []
    scene.look(INSIDE)
    seen_at = scene.at()
    (closed,) = scene.state.close(because, seen_at + timedelta(seconds=30))
    assert (closed.ended_at, closed.attributes["closed_because"]) == (seen_at, because)
    assert scene.state.close(because, seen_at) == []


def test_a_wall_clock_set_back_never_ends_an_event_before_it_began(make_camera):
    scene = Scene(make_camera())
    scene.look(INSIDE)
    scene.begins_at -= timedelta(hours=1)
    scene.look(INSIDE, after_s=12)
    for _ in range(4):
        scene.look()
    closed = scene.told[-1]
    assert closed.state == "closed"
    assert closed.started_at <= closed.ended_at <= closed.updated_at


a_look = st.tuples(
    st.sampled_from(["look", "look", "look", "damaged", "tick", "lost"]),
    st.lists(st.sampled_from([INSIDE, OUTSIDE, Detection("person", 0.95, INSIDE.box)]), max_size=3),
    st.sampled_from([0.0, 1.0, 2.0, 4.0, 30.0, 3600.0]),
)


@settings(max_examples=150, deadline=None)
@given(script=st.lists(a_look, max_size=40), open_looks=st.integers(1, 3), cooldown_s=st.sampled_from([0, 60]))
def test_never_two_open_every_opened_closed_nothing_after_closing(make_camera, script, open_looks, cooldown_s):
    camera = make_camera(active_hours=["18:00-06:00", "11:00-13:00"], cooldown_s=cooldown_s)
    scene = Scene(camera, Hysteresis(open_looks=open_looks))
    for what, found, after_s in script:
        if what in ("look", "damaged"):
            scene.look(*found, after_s=after_s, is_whole=what == "look")
        elif what == "tick":
            scene.told += scene.state.tick(scene.at())
        else:
            scene.told += scene.state.close("camera_lost", scene.at())
    scene.told += scene.state.close("stopped", scene.at())

    now_open, finished, last_closed_at = None, set(), None
    for event in scene.told:
        assert event.id not in finished
        if event.state == "opened":
            assert now_open is None
            assert last_closed_at is None or event.started_at >= last_closed_at + timedelta(seconds=cooldown_s)
            assert event.number == 1
            assert len(event.evidence) == 1
        else:
            assert event.id == now_open.id
            assert event.number == now_open.number + 1
            assert event.started_at == now_open.started_at
            assert event.updated_at >= now_open.updated_at
        now_open = event
        if event.state == "closed":
            assert event.started_at <= event.ended_at <= event.updated_at
            finished.add(event.id)
            now_open = None
            last_closed_at = event.updated_at if event.attributes["closed_because"] == "cleared" else None
    assert now_open is None
    assert not scene.state.is_busy
