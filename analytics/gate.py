"""The gate: has anything changed since the picture that the detector saw last? It only ever saves the detector's work.

Life cycle: one a camera, fed once a look with a small gray picture. It compares blocks with the picture of the last
detection, so a slow change adds up instead of slipping by. What each block's difference usually is (sensor noise,
compression, leaves) is learnt block by block; light that changes everywhere alike is taken out first. After
`most_skips` unchanged looks the detector runs anyway: a gate that errs costs seconds, never an intrusion.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from analytics.decode import Gray

WIDTH_PX, HEIGHT_PX = 320, 180
_COLUMNS, _ROWS = 40, 20  # blocks of 8 x 9 pixels
_LEAST_RISE = 1.5  # gray levels, block mean: below this nothing that matters has changed
_DEVIATIONS = 5.0
_LIGHT_LIMIT = 25.0  # gray levels; a larger common change is a change
_MEMORY = 1 / 20  # how fast the noise of a block is relearnt, looks

Blocks = NDArray[np.float32]


class Gate:
    """Decides "changed" or "unchanged" for one camera."""

    def __init__(self, most_skips: int = 3) -> None:
        self._most_skips = most_skips
        self._skips = 0
        self._reference: Gray | None = None
        self._usual: Blocks = np.zeros((_ROWS, _COLUMNS), np.float32)
        self._spread: Blocks = np.zeros((_ROWS, _COLUMNS), np.float32)
        self._learnt = 0

    def unchanged(self, gray: Gray) -> bool:
        """True when the last detections still hold; the caller then skips the detector.

        Shape: HEIGHT_PX x WIDTH_PX. False when in doubt: first picture, other size, not enough learnt, skips used up.
        """
        smooth = cast("Gray", cv2.blur(gray, (3, 3)))
        if self._reference is None:
            return self._look(smooth)
        blocks, light = self._difference(smooth, self._reference)
        limit = self._usual + np.maximum(_LEAST_RISE, _DEVIATIONS * self._spread)
        changed = self._learnt == 0 or abs(light) > _LIGHT_LIMIT or bool((blocks > limit).any())
        self._learn(blocks)
        if changed or self._skips >= self._most_skips:
            return self._look(smooth)
        self._skips += 1
        return True

    def _look(self, smooth: Gray) -> bool:
        self._reference = smooth
        self._skips = 0
        return False

    @staticmethod
    def _difference(smooth: Gray, reference: Gray) -> tuple[Blocks, float]:
        """Mean absolute difference a block, and the common change of light that was taken out of it."""
        signed = cv2.subtract(smooth, reference, dtype=cv2.CV_32F)
        light = float(np.median(cv2.resize(signed, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)))
        cv2.absdiff(signed, np.array([light, 0, 0, 0], np.float64), signed)
        return cast("Blocks", cv2.resize(signed, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)), light

    def _learn(self, blocks: Blocks) -> None:
        """Take this look into the blocks' usual difference; a real change counts only a little."""
        self._learnt += 1
        if self._learnt == 1:
            self._usual, self._spread = blocks, 0.3 + 0.3 * blocks  # wide at first: one look tells little
            return
        rate = max(_MEMORY, 1 / self._learnt)
        blocks = np.minimum(blocks, self._usual + np.maximum(2 * _LEAST_RISE, 4 * self._spread))
        off = blocks - self._usual
        self._usual = self._usual + rate * off
        self._spread = self._spread + rate * (np.abs(off) - self._spread)
