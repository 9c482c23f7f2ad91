"""The detector: a picture in, objects of the product's vocabulary out. A plug-in interface with an ONNX one behind it.

Life cycle: one `OnnxDetector` a process, made once at start and shared by its threads (`run` is thread-safe and
releases the GIL); it keeps no state between pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from analytics.model import Model, SsdOutput
from ingest.camera import ObjectClass
from ingest.errors import GridwatchError
from ingest.event import Box

Rgb = NDArray[np.uint8]  # height x width x 3
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in one picture: an observation, never stored by itself."""

    object_class: ObjectClass
    score: float  # 0..1
    box: Box


class Detector(Protocol):
    """What every detector offers. `detect` may be called from several threads at once."""

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture that `detect` wants; it is not asked to keep the aspect."""
        ...

    def detect(self, rgb: Rgb) -> list[Detection]:
        """Objects in the picture, best score first. Shape: input height x width x 3, uint8, RGB."""
        ...


class OnnxDetector:
    """A described ONNX model on the CPU: one session, one thread, no spinning.

    Sparse calls with spinning worker threads burn several times the CPU that the model needs, so there are none.
    """

    def __init__(self, model: Model) -> None:
        """Raises: GridwatchError `model.cannot_run` when the file is no such model."""
        self._model = model.description
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._columns = np.array(list(self._model.output.classes.values()))
        self._classes = tuple(self._model.output.classes)
        try:
            self._session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
            width, height = self.input_size
            self.detect(np.zeros((height, width, 3), np.uint8))  # wrong names or shapes show now, not at 3 a.m.
        except Exception as error:  # onnxruntime raises types of its own that are not exported
            raise GridwatchError("model.cannot_run", model=self._model.name, why=error) from error

    @property
    def input_size(self) -> tuple[int, int]:
        return self._model.input.width_px, self._model.input.height_px

    def detect(self, rgb: Rgb) -> list[Detection]:
        feed, output = self._model.input, self._model.output
        pixels = rgb if feed.colour == "RGB" else rgb[:, :, ::-1]
        tensor = pixels.astype(np.float32)
        tensor *= np.float32(feed.scale)
        tensor += np.float32(feed.offset)
        if feed.layout == "NCHW":
            tensor = np.ascontiguousarray(tensor.transpose(2, 0, 1))
        answers: list[Any] = self._session.run([output.boxes, output.scores], {feed.name: tensor[np.newaxis]})
        return read_ssd(answers[0], answers[1], output, self._columns, self._classes)


def read_ssd(
    boxes: Floats, scores: Floats, output: SsdOutput, columns: NDArray[np.int64], classes: tuple[ObjectClass, ...]
) -> list[Detection]:
    """Detections from `boxes` [n, 4] and `scores` [1, n, columns]: threshold, then suppression within a class."""
    ours = scores.reshape(-1, scores.shape[-1])[:, columns]
    rows, kinds = np.nonzero(ours >= output.min_score)
    if not len(rows):
        return []
    corners = np.clip(boxes.reshape(-1, 4)[rows], 0.0, 1.0)
    if output.box_order == "ymin_xmin_ymax_xmax":
        corners = corners[:, [1, 0, 3, 2]]
    values = ours[rows, kinds]
    found = []
    for i in suppress(corners, values, kinds, output.nms_iou):
        x, y, right, bottom = (round(float(v), 4) for v in corners[i])
        box = Box(x=x, y=y, w=round(max(right - x, 0.0), 4), h=round(max(bottom - y, 0.0), 4))
        found.append(Detection(classes[kinds[i]], round(min(float(values[i]), 1.0), 4), box))
    return found


def suppress(corners: Floats, values: Floats, kinds: NDArray[np.int64], iou: float) -> list[int]:
    """Indices that survive greedy non-maximum suppression within each kind, best value first.

    Shapes: corners [n, 4] as xmin, ymin, xmax, ymax; values [n]; kinds [n].
    """
    apart = corners + (kinds * 2.0)[:, np.newaxis].astype(np.float32)  # kinds side by side: one pass serves all
    areas = np.prod(np.maximum(apart[:, 2:] - apart[:, :2], 0.0), axis=1)
    order = np.argsort(-values, kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(apart[best, 2:], apart[rest, 2:]) - np.maximum(apart[best, :2], apart[rest, :2])
        shared = np.prod(np.maximum(sides, 0.0), axis=1)
        together = areas[best] + areas[rest] - shared
        order = rest[shared <= iou * np.maximum(together, 1e-9)]
    return kept
