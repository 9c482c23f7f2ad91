"""A street that is drawn, not filmed: texture, coloured cars, and a clock that a program can read back.

The clock is shown twice: digits for people (`mm:ss.cc`, clip time) and a row of black and white cells above them, 16
bits of clip time in centiseconds plus a parity cell, large enough to survive encoding and scaling (`read_burnt_clock`).
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_CLOCK_BITS: Final = 16
_CLOCK_CELLS: Final = _CLOCK_BITS + 3  # a white and a black guard, then bits from the highest, then parity
_CLOCK_LEFT: Final = 0.03  # all sizes as a share of the picture's width or height
_CLOCK_TOP: Final = 0.03
_CLOCK_CELL_WIDTH: Final = 0.025
_CLOCK_CELL_HEIGHT: Final = 0.06
_CARS: Final = (  # lane (share of height), length (share of width), pictures' widths a second, BGR
    (0.52, 0.16, 0.11, (40, 40, 190)),
    (0.60, 0.18, 0.15, (190, 120, 40)),
    (0.72, 0.21, -0.13, (60, 170, 60)),
    (0.84, 0.24, -0.19, (200, 200, 205)),
)


class DrawnScene:
    """Needs no footage, has motion everywhere on the road and known ground truth."""

    def __init__(self, width: int, height: int, seed: int = 7) -> None:
        self._size = width, height
        rng = np.random.default_rng(seed)
        grain = cv2.GaussianBlur(rng.standard_normal((height, width), dtype=np.float32), (0, 0), max(0.8, height / 700))
        base = np.empty((height, width, 3), np.float32)
        horizon, kerb = int(height * 0.32), int(height * 0.46)
        base[:horizon] = (150, 130, 110)
        base[horizon:kerb] = (70, 120, 80)
        base[kerb:] = (95, 95, 98)
        base += (grain * (14 / grain.std()))[..., None]
        self._background = np.clip(base, 0, 255).astype(np.uint8)
        for left in range(0, width, max(1, width // 7)):
            top = int(height * (0.10 + 0.08 * ((left * 7 // width) % 3)))
            corner = left + int(width * 0.11), horizon
            cv2.rectangle(self._background, (left, top), corner, (90 + left * 60 // width, 100, 125), -1)
        for dash in range(0, width, max(1, width // 12)):
            line = int(height * 0.66)
            cv2.rectangle(
                self._background, (dash, line), (dash + width // 24, line + height // 90), (215, 215, 215), -1
            )

    def picture(self, time_s: float) -> NDArray[np.uint8]:
        width, height = self._size
        picture: NDArray[np.uint8] = self._background.copy()
        for number in range(len(_CARS)):
            x, y, w, h = self._car(number, time_s)
            colour = _CARS[number][3]
            corner, opposite = (int(x * width), int(y * height)), (int((x + w) * width), int((y + h) * height))
            cv2.rectangle(picture, corner, opposite, colour, -1)
            glass = (int((x + w * 0.25) * width), int((y + h * 0.1) * height))
            cv2.rectangle(picture, glass, (int((x + w * 0.75) * width), int((y + h * 0.45) * height)), (60, 50, 45), -1)
            for wheel in (0.2, 0.8):
                centre = int((x + w * wheel) * width), int((y + h) * height)
                cv2.circle(picture, centre, max(2, int(h * height * 0.22)), (25, 25, 25), -1)
        _burn_clock(picture, time_s)
        return picture

    @staticmethod
    def _car(number: int, time_s: float) -> tuple[float, float, float, float]:
        """Box of a car (x, y, width, height as shares of the picture); it may be partly outside."""
        lane, length, speed, _ = _CARS[number]
        way = (number * 0.37 + abs(speed) * time_s) % (1 + length)
        x = way - length if speed > 0 else 1 - way
        return x, lane - length * 0.3, length, length * 0.45

    def ground_truth(self, fps: float, duration_s: float) -> dict[str, Any]:
        frames = range(round(duration_s * fps))
        boxes = [[[round(side, 4) for side in self._car(car, f / fps)] for car in range(len(_CARS))] for f in frames]
        return {"object_class": "car", "boxes": boxes}


def _burn_clock(picture: NDArray[np.uint8], time_s: float) -> None:
    height, width = picture.shape[:2]
    centiseconds = round(time_s * 100) & 0xFFFF
    bits = [centiseconds >> shift & 1 for shift in range(_CLOCK_BITS - 1, -1, -1)]
    for cell, bit in enumerate([1, 0, *bits, sum(bits) & 1]):
        left = int((_CLOCK_LEFT + cell * _CLOCK_CELL_WIDTH) * width)
        right = int((_CLOCK_LEFT + (cell + 1) * _CLOCK_CELL_WIDTH) * width)
        top, bottom = int(_CLOCK_TOP * height), int((_CLOCK_TOP + _CLOCK_CELL_HEIGHT) * height)
        picture[top:bottom, left:right] = 235 if bit else 16
    text = f"{int(time_s // 60):02d}:{time_s % 60:05.2f}"
    left, base = int(_CLOCK_LEFT * width), int(height * 0.19)
    cv2.rectangle(picture, (left, int(height * 0.11)), (left + int(width * 0.22), int(height * 0.21)), (0, 0, 0), -1)
    thickness = max(1, height // 200)
    cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, height / 420, (255, 255, 255), thickness)


def read_burnt_clock(luma: NDArray[np.uint8]) -> float | None:
    """The clip time in seconds that a `drawn` picture shows, from its luma plane (height x width, any scale).

    None when no clock is there or a cell cannot be told: one torn bit never makes a wrong time.
    """
    height, width = luma.shape[:2]
    row = int((_CLOCK_TOP + _CLOCK_CELL_HEIGHT / 2) * height)
    columns = [int((_CLOCK_LEFT + (cell + 0.5) * _CLOCK_CELL_WIDTH) * width) for cell in range(_CLOCK_CELLS)]
    levels = [float(luma[max(0, row - 1) : row + 2, column - 1 : column + 2].mean()) for column in columns]
    if any(80 < level < 170 for level in levels):
        return None
    white, black, *bits = [int(level > 125) for level in levels]
    if (white, black) != (1, 0) or sum(bits[:-1]) & 1 != bits[-1]:
        return None
    return sum(bit << shift for bit, shift in zip(bits[:-1], range(_CLOCK_BITS - 1, -1, -1), strict=True)) / 100
