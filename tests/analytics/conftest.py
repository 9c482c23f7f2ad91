"""Real parts for the analytics tests: the shipped detector, committed footage, a camera with one zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from analytics.clip import clip_keyframes
from analytics.detector import OnnxDetector
from analytics.model import load_model
from ingest.access_unit import AccessUnit, StreamFormat
from ingest.camera import Camera

VTEST = Path(__file__).parents[2] / "ingest/simulate/footage/vtest-pedestrians-768x576.mp4"
BEGINS_AT = datetime(2026, 1, 1, 4, 0, tzinfo=UTC)  # noon in Shanghai


@pytest.fixture(scope="session")
def detector() -> OnnxDetector:
    return OnnxDetector(load_model())


@pytest.fixture(scope="session")
def vtest_path() -> Path:
    return VTEST


@pytest.fixture(scope="session")
def vtest_keyframes() -> list[AccessUnit]:
    """40 keyframes, one every 2 s."""
    return list(clip_keyframes(VTEST, BEGINS_AT))


@pytest.fixture(scope="session")
def make_camera() -> Callable[..., Camera]:
    """The lower left strip of the vtest picture, where somebody walks from second 52 to second 64 and nobody else."""

    def make(camera_id: str = "c-001", **rule: Any) -> Camera:
        strip = [(0.0, 0.8), (0.8, 0.8), (0.8, 1.0), (0.0, 1.0)]
        return Camera.model_validate(
            {
                "id": camera_id,
                "name": "East gate",
                "village": "Shangcun",
                "lon": 115.83,
                "lat": 38.42,
                "main": "rtsp://127.0.0.1/main",
                "zones": [{"id": "strip", "name": "Strip", "polygon": strip}],
                "rules": [{"id": "walk-in", "zone": "strip", "cooldown_s": 0, **rule}],
            }
        )

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., list[AccessUnit]]:
    """Drawn pictures as keyframes of a codec, parameter sets in each."""

    def encode(pictures: list[np.ndarray], encoder: str = "libx264", crf: int = 23) -> list[AccessUnit]:
        height, width = pictures[0].shape[:2]
        context = av.CodecContext.create(encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.gop_size = Fraction(1, 25), 1
        context.options = {"crf": str(crf), "preset": "ultrafast", "x265-params": "log-level=none:keyint=1"}
        if encoder == "libx264":
            context.options = {"crf": str(crf), "preset": "ultrafast", "tune": "zerolatency"}
        form = StreamFormat("h264" if encoder == "libx264" else "hevc", b"", b"", None, width, height, "", 0)
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = number
            packets += context.encode(frame)
        packets += context.encode(None)
        return [
            AccessUnit(bytes(packet), (), 180_000 * n, 180_000 * n, True, BEGINS_AT.timestamp() + 2 * n, 2.0 * n, form)
            for n, packet in enumerate(packets)
        ]

    return encode
