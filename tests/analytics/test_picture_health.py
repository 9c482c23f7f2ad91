"""Frozen and black pictures are told; quiet scenes, nights and passing people never are. Real clips, real decoder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import av
import cv2
import numpy as np
import pytest

from analytics.clip import clip_keyframes
from analytics.decode import KeyframeDecoder
from analytics.picture_health import ROWS, PictureHealth, PictureLimits
from ingest.event import Event
from ingest.simulate import ClipLibrary, ensure_clips

AT = datetime(2026, 1, 1, 4, 0, tzinfo=UTC)
SCENES = ("quiet", "walker", "street", "drawn")


@pytest.fixture(scope="session")
def clips() -> ClipLibrary:
    return ensure_clips()


@pytest.fixture(scope="session")
def rows_of(clips):
    """The luma rows of each keyframe of a simulated clip."""
    known: dict[tuple[str, str], list[np.ndarray]] = {}

    def rows_of(scene: str, profile: str = "tiny") -> list[np.ndarray]:
        if (scene, profile) not in known:
            recipe = clips.recipe(scene, profile)
            decoder = KeyframeDecoder()
            keyframes = clip_keyframes(clips.folder / recipe.file_name, AT)
            known[scene, profile] = [decoder.decode(unit).luma_rows(ROWS) for unit in keyframes]
        return known[scene, profile]

    return rows_of


class Bench:
    """Looks at pictures in a loop, one every `every_s`, or sooner as the schedule does for a suspicious camera."""

    def __init__(self, camera) -> None:
        self.health = PictureHealth(camera, epoch=7)
        self.now_s = 100.0
        self.told: list[Event] = []

    def show(self, pictures: list[np.ndarray], for_s: float, gop_s: float = 1.0, every_s: float = 4.0) -> list[Event]:
        told = len(self.told)
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            step_s = min(every_s, 2.0) if self.health.is_suspicious else every_s
            self.now_s += max(gop_s, step_s)
            picture = pictures[round(self.now_s / gop_s) % len(pictures)]
            self.told += self.health.observe(picture, AT + timedelta(seconds=self.now_s), self.now_s, lambda: None)
        return self.told[told:]


@pytest.fixture
def bench(make_camera) -> Bench:
    return Bench(make_camera())


@pytest.mark.parametrize("profile", ["tiny", "tiny-sub"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_live_scene_is_never_abnormal(bench, rows_of, scene, profile):
    """Ten minutes of a loop at each cadence: also where looks fall in step with the loop."""
    for every_s in (2.0, 4.0, 6.0, 12.0):
        assert bench.show(rows_of(scene, profile), 600, every_s=every_s) == []


@pytest.mark.parametrize("profile", ["tiny", "tiny-sub"])
@pytest.mark.parametrize(("scene", "kind", "after_s"), [("still", "frozen", 60), ("black", "black", 20)])
def test_an_abnormal_picture_is_told_once_and_ends(bench, rows_of, scene, kind, after_s, profile):
    bench.show(rows_of("quiet", profile), 60)
    began_s = bench.now_s
    assert bench.show(rows_of(scene, profile), after_s - 5) == []
    [opened] = bench.show(rows_of(scene, profile), 600)
    assert (opened.state, opened.code, opened.attributes["kind"], opened.epoch) == ("opened", "5.11", kind, 7)
    assert abs((opened.started_at - AT).total_seconds() - began_s) <= 4
    assert bench.health.kind == kind
    ends_at = AT + timedelta(seconds=bench.now_s + 4)
    [closed] = bench.show(rows_of("quiet", profile), 60)
    assert (closed.id, closed.state, closed.number) == (opened.id, "closed", 2)
    assert closed.ended_at == ends_at
    assert closed.attributes["closed_because"] == "cleared"
    assert closed.attributes["duration_s"] == pytest.approx((ends_at - opened.started_at).total_seconds(), abs=0.1)
    assert bench.health.kind is None


def test_short_ones_and_single_pictures_in_between_are_nothing(bench, rows_of):
    quiet, still, black = rows_of("quiet"), rows_of("still"), rows_of("black")
    assert bench.show(quiet, 30) == []
    assert bench.show(black, 12) == []
    assert bench.show(quiet, 12) == []
    assert bench.show(still, 40) == []
    assert bench.show(quiet, 30) == []
    [opened] = bench.show(still, 100)
    assert bench.show(quiet, 4) == []  # one look: a hiccup does not end it
    assert bench.show(still, 60) == []
    assert bench.health.kind == opened.attributes["kind"] == "frozen"


def test_frozen_goes_black(bench, rows_of):
    bench.show(rows_of("quiet"), 30)
    told = bench.show(rows_of("still"), 120) + bench.show(rows_of("black"), 120)
    assert [(event.state, event.attributes["kind"]) for event in told] == [
        ("opened", "frozen"),
        ("closed", "frozen"),
        ("opened", "black"),
    ]


def test_what_comes_and_goes_is_damped(bench, rows_of):
    """Two hours of 70 s frozen, 15 s live: a handful of events, not eighty."""
    for _ in range(85):
        bench.show(rows_of("still"), 70)
        bench.show(rows_of("quiet"), 15)
    opened = [event for event in bench.told if event.state == "opened"]
    assert 1 <= len(opened) <= 6


def test_the_camera_is_lost_while_frozen(bench, rows_of):
    bench.show(rows_of("quiet"), 30)
    bench.show(rows_of("still"), 120)
    [closed] = bench.health.close("camera_lost", AT + timedelta(seconds=bench.now_s + 30), bench.now_s + 30)
    assert (closed.state, closed.attributes["closed_because"]) == ("closed", "camera_lost")
    assert bench.health.close("camera_lost", AT, bench.now_s + 31) == []


@pytest.fixture(scope="session")
def background(vtest_keyframes) -> np.ndarray:
    frame = KeyframeDecoder().decode(vtest_keyframes[0])
    return cv2.resize(frame.rgb(frame.width, frame.height), (640, 360)).astype(np.float32)


def filmed(encode, background, light: float, lift: float, noise: float, crf: int, count: int) -> list[np.ndarray]:
    """Rows of keyframes of a still place with a sensor's noise, as an encoder leaves them."""
    rng = np.random.default_rng(5)
    pictures = []
    for _ in range(count):
        grain = rng.standard_normal((*background.shape[:2], 1), dtype=np.float32) * noise
        pictures.append(np.clip(np.round(background * light + lift + grain), 0, 255).astype(np.uint8))
    decoder = KeyframeDecoder()
    return [decoder.decode(unit).luma_rows(ROWS) for unit in encode(pictures, crf=crf)]


@pytest.mark.parametrize("crf", [23, 34, 44])
@pytest.mark.parametrize(
    ("light", "lift"), [(1.0, 0.0), (0.12, 4.0), (0.05, 4.0), (0.02, 2.0)], ids=["day", "lamp", "moon", "dark"]
)
def test_day_and_night_with_a_sensors_noise_are_pictures(bench, encode, background, light, lift, crf):
    """Down to a third of a level of noise, and compressed until little of it is left."""
    day = filmed(encode, background, 1.0, 0.0, 1.6, 23, 4)
    for noise in (0.3, 1.0, 3.0):
        bench.show(day, 20, gop_s=2.0)
        assert bench.show(filmed(encode, background, light, lift, noise, crf, 30), 60, gop_s=2.0, every_s=2.0) == []


def test_a_night_that_falls_until_nothing_is_left_is_not_black(bench, encode, background):
    dusk = [
        filmed(encode, background, 0.5 * 0.85**step, 0.0, 0.0, 30, 1)[0] for step in range(30)
    ]  # half a minute a step
    for picture in dusk:
        assert bench.show([picture, picture + 1], 30, gop_s=2.0) == []
    assert int(dusk[-1].max()) <= 18
    assert bench.show([dusk[-1]], 400, gop_s=2.0) == []


def test_black_from_the_start_takes_longer(bench, rows_of):
    assert bench.show(rows_of("black"), 580) == []
    assert [event.state for event in bench.show(rows_of("black"), 60)] == ["opened"]


def test_a_frozen_picture_with_a_running_clock_and_changing_rate_control(bench, encode, background):
    """The sensor has stopped, the device's own clock still runs in a corner."""
    pictures = []
    for second in range(60):
        picture = background.astype(np.uint8).copy()
        cv2.putText(picture, f"12:00:{second:02d}", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
        pictures.append(picture)
    decoder = KeyframeDecoder()
    rows = [decoder.decode(unit).luma_rows(ROWS) for unit in encode(pictures)]
    told = bench.show(rows, 150, gop_s=2.0)
    assert [event.attributes["kind"] for event in told] == ["frozen"]


def test_black_with_a_running_clock_is_black(bench, encode, rows_of):
    pictures = []
    for second in range(30):
        picture = np.zeros((360, 640, 3), np.uint8)
        cv2.putText(picture, f"12:00:{second:02d}", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
        pictures.append(picture)
    decoder = KeyframeDecoder()
    bench.show(rows_of("quiet"), 20)
    told = bench.show([decoder.decode(unit).luma_rows(ROWS) for unit in encode(pictures)], 60, gop_s=2.0)
    assert [event.attributes["kind"] for event in told] == ["black"]


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_the_rows_are_the_decoded_pixels(encode, encoder):
    noise = np.random.default_rng(1).integers(0, 255, (144, 176, 3), np.uint8)
    [unit] = encode([noise], encoder)
    rows = KeyframeDecoder().decode(unit).luma_rows(ROWS)
    decoder = av.CodecContext.create(unit.format.codec, "r")
    [frame] = [*decoder.decode(av.Packet(unit.data)), *decoder.decode(None)]
    assert rows.shape == (ROWS, 176)
    assert np.array_equal(rows, frame.to_ndarray()[:144][(np.arange(ROWS) * 144 + 72) // ROWS])


def test_limits_are_the_callers(make_camera, rows_of):
    bench = Bench(make_camera())
    bench.health = PictureHealth(make_camera(), 1, PictureLimits(frozen_s=10, frozen_looks=3))
    assert [event.attributes["kind"] for event in bench.show(rows_of("still"), 20)] == ["frozen"]
