"""What simulated cameras see: pictures by scene and time, for encoding at set-up. No scene is drawn while cameras run.

`street` is the pedestrian sample itself, `quiet` its empty background, `walker` the same background into which a person
cut out of the sample walks at known times, `drawn` a textured street with cars and a burnt-in clock, `still` and
`black` what a camera shows when it has frozen or gone blind. A scene is made for one picture size, asked for pictures
by time, and thrown away after its clip is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any, Final, Literal, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.simulate.drawn_scene import DrawnScene

SceneName = Literal["street", "quiet", "walker", "drawn", "still", "black"]
Picture = NDArray[np.uint8]  # height x width x 3, BGR

FOOTAGE: Final = "vtest-pedestrians-768x576.mp4"
FOOTAGE_FPS: Final = 10
VIEW_TOP: Final = 144  # the sample is 4:3; cameras see its lower 16:9 part, 768x432
VIEW_WIDTH: Final = 768
VIEW_HEIGHT: Final = 432

WALKER_DURATION_S: Final = 30.0
WALKER_ENTERS_S: Final = 8.0
WALKER_LEAVES_S: Final = 20.0
WALKER_ZONE: Final = ((0.18, 0.50), (0.86, 0.50), (0.88, 0.96), (0.16, 0.96))
_GAIT_FRAMES: Final = tuple(range(669, 680))  # one stride of a person crossing the sample's lawn
_GAIT_CENTRE_X: Final = ((656, 346), (662, 314), (666, 283), (670, 258), (674, 234), (690, 140))
_GAIT_FOOT_Y: Final = ((656, 500), (666, 476), (674, 466), (690, 448))
_WALKER_SCALE: Final = 1.2
_WALKER_FOOT_Y: Final = 330.0  # in the view
_NOISE_PICTURES: Final = 8


class Scene(Protocol):
    """Pictures of one size by time."""

    def picture(self, time_s: float) -> Picture:
        """The picture at `time_s` from the clip's start; not to be changed by the caller."""
        ...

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        """What is known to be visible, normalised 0..1: for the JSON beside the clip."""
        ...


def read_footage() -> list[Picture]:
    """All pictures of the sample, 768x576."""
    with as_file(files("ingest.simulate") / "footage" / FOOTAGE) as path, av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in container.decode(video=0)]


@dataclass(frozen=True)
class Footage:
    """The sample decoded once a set-up, and its background (median over time)."""

    pictures: list[Picture]
    background: Picture

    @classmethod
    def read(cls) -> Footage:
        pictures = read_footage()
        return cls(pictures, np.median(np.stack(pictures[::16]), axis=0).astype(np.uint8))

    @classmethod
    def none(cls) -> Footage:
        """For scenes that need none."""
        return cls([], np.zeros((0, 0, 3), np.uint8))


def _view(picture: Picture, width: int, height: int) -> Picture:
    shown = picture[VIEW_TOP : VIEW_TOP + VIEW_HEIGHT]
    enlarging = width > VIEW_WIDTH
    scaled = cv2.resize(shown, (width, height), interpolation=cv2.INTER_LINEAR if enlarging else cv2.INTER_AREA)
    return np.asarray(scaled, np.uint8)


class StreetScene:
    """The sample as it was filmed: pedestrians, two parked vehicles."""

    def __init__(self, footage: Footage, width: int, height: int) -> None:
        self._footage = footage
        self._size = width, height
        self._last: tuple[int, Picture] | None = None

    def picture(self, time_s: float) -> Picture:
        index = int(time_s * FOOTAGE_FPS) % len(self._footage.pictures)
        if self._last is None or self._last[0] != index:
            self._last = index, _view(self._footage.pictures[index], *self._size)
        return self._last[1]

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        return {}


class QuietScene:
    """The sample's background with a sensor's noise: nobody is there."""

    def __init__(self, footage: Footage, width: int, height: int, noise: float = 1.6, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        background = _view(footage.background, width, height).astype(np.int16)
        count = _NOISE_PICTURES if noise else 1
        self._pictures: list[Picture] = []
        for _ in range(count):
            grain = np.round(rng.standard_normal((height, width, 1), dtype=np.float32) * noise).astype(np.int16)
            self._pictures.append(np.clip(background + grain, 0, 255).astype(np.uint8))

    def picture(self, time_s: float) -> Picture:
        return self._pictures[round(time_s * 25) % len(self._pictures)]

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Cutout:
    """A person's pixels with a soft mask (0..1); `foot` is the ground point within it, in pixels."""

    pixels: NDArray[np.float32]
    mask: NDArray[np.float32]
    foot: tuple[float, float]
    box: tuple[int, int, int, int]  # x, y, width, height of what the mask shows


def _columns(points: tuple[tuple[int, int], ...]) -> tuple[list[float], list[float]]:
    return [float(frame) for frame, _ in points], [float(place) for _, place in points]


def _cut_out(footage: Footage, frame: int, scale: float) -> Cutout:
    """Cut the person out of a frame by the difference to the background; mirrored, so that the way leads right."""
    width, height = 110, 190
    x = int(np.interp(frame, *_columns(_GAIT_CENTRE_X))) - width // 2
    y = int(np.interp(frame, *_columns(_GAIT_FOOT_Y))) - height + 20
    pixels = footage.pictures[frame][y : y + height, x : x + width]
    empty = footage.background[y : y + height, x : x + width]
    difference = np.abs(pixels.astype(np.int16) - empty).max(axis=2).astype(np.float32)
    found = (cv2.GaussianBlur(difference, (0, 0), 1.0) > 26).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(found)
    person = (labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))).astype(np.float32)
    size = round(width * scale), round(height * scale)
    mask = cv2.resize(cv2.GaussianBlur(person, (0, 0), 1.0)[:, ::-1], size)
    enlarged = cv2.resize(np.ascontiguousarray(pixels[:, ::-1]), size).astype(np.float32)
    rows, columns = np.nonzero(mask > 0.5)
    box = int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    torso = columns[rows < box[1] + 0.5 * box[3]]
    return Cutout(enlarged, mask[..., None], (float(torso.mean()), float(box[1] + box[3])), box)


class WalkerScene:
    """The empty place; one person enters on the left at `WALKER_ENTERS_S` and is gone at `WALKER_LEAVES_S`."""

    def __init__(self, footage: Footage, width: int, height: int) -> None:
        self._quiet = QuietScene(footage, width, height)
        self._size = width, height
        self._scale = width / VIEW_WIDTH
        self._gait = [_cut_out(footage, frame, _WALKER_SCALE * self._scale) for frame in _GAIT_FRAMES]

    def _placed(self, time_s: float) -> tuple[Cutout, int, int] | None:
        """The cutout of this moment with its left upper corner, or None while nobody is there."""
        if not WALKER_ENTERS_S <= time_s < WALKER_LEAVES_S:
            return None
        done = (time_s - WALKER_ENTERS_S) / (WALKER_LEAVES_S - WALKER_ENTERS_S)
        cutout = self._gait[int((time_s - WALKER_ENTERS_S) * FOOTAGE_FPS) % len(self._gait)]
        margin = 40.0
        foot_x = (-margin + done * (VIEW_WIDTH + 2 * margin)) * self._scale
        return cutout, round(foot_x - cutout.foot[0]), round(_WALKER_FOOT_Y * self._scale - cutout.foot[1])

    def picture(self, time_s: float) -> Picture:
        empty = self._quiet.picture(time_s)
        placed = self._placed(time_s)
        if placed is None:
            return empty
        cutout, x, y = placed
        width, height = self._size
        left, right = max(x, 0), min(x + cutout.mask.shape[1], width)
        top, bottom = max(y, 0), min(y + cutout.mask.shape[0], height)
        if left >= right:
            return empty
        inside = np.s_[top - y : bottom - y, left - x : right - x]
        picture = empty.copy()
        behind = picture[top:bottom, left:right].astype(np.float32)
        mask = cutout.mask[inside]
        picture[top:bottom, left:right] = (cutout.pixels[inside] * mask + behind * (1 - mask)).astype(np.uint8)
        return picture

    def box(self, time_s: float) -> tuple[float, float, float, float] | None:
        """The person's visible box (x, y, width, height, normalised), or None when nobody is in the picture."""
        placed = self._placed(time_s)
        if placed is None:
            return None
        cutout, x, y = placed
        width, height = self._size
        left, right = max(x + cutout.box[0], 0), min(x + cutout.box[0] + cutout.box[2], width)
        if left >= right:
            return None
        return left / width, (y + cutout.box[1]) / height, (right - left) / width, cutout.box[3] / height

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        boxes = [self.box(frame / fps) for frame in range(round(duration_s * fps))]
        seen = [frame / fps for frame, box in enumerate(boxes) if box]
        in_zone = [
            frame / fps
            for frame, box in enumerate(boxes)
            if box and WALKER_ZONE[0][0] < box[0] + box[2] / 2 < WALKER_ZONE[1][0]
        ]
        return {
            "object_class": "person",
            "enters_s": seen[0],
            "leaves_s": seen[-1],
            "zone": [list(corner) for corner in WALKER_ZONE],
            "enters_zone_s": in_zone[0],
            "leaves_zone_s": in_zone[-1],
            "boxes": [None if box is None else [round(side, 4) for side in box] for box in boxes],
        }


class BlackScene:
    """What a covered or dead sensor gives."""

    def __init__(self, width: int, height: int) -> None:
        self._picture: Picture = np.zeros((height, width, 3), np.uint8)

    def picture(self, time_s: float) -> Picture:
        return self._picture

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        return {}


def make_scene(name: SceneName, footage: Footage, width: int, height: int) -> Scene:
    """The scene of a name in a picture size."""
    match name:
        case "street":
            return StreetScene(footage, width, height)
        case "quiet":
            return QuietScene(footage, width, height)
        case "walker":
            return WalkerScene(footage, width, height)
        case "still":
            return QuietScene(footage, width, height, noise=0.0)
        case "black":
            return BlackScene(width, height)
        case "drawn":
            return DrawnScene(width, height)


def scene_for(camera_index: int) -> SceneName:
    """The demo's rule: camera 0, 8, 16, … sees the walker, 4, 20, 36, … the street, all others nobody."""
    if camera_index % 8 == 0:
        return "walker"
    return "street" if camera_index % 16 == 4 else "quiet"


def phase_for(camera_index: int) -> float:
    """Seconds by which a camera's loop is ahead of the town's clock, so that neither people nor keyframes coincide.

    Camera 0 starts 2 s before its walker enters. The golden ratio spreads any number of cameras evenly.
    """
    return (WALKER_ENTERS_S - 2.0 + camera_index * 0.6180339887 * WALKER_DURATION_S) % WALKER_DURATION_S
