from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analytics.decode import KeyframeDecoder
from analytics.detector import OnnxDetector, read_ssd, suppress
from analytics.model import DEFAULT_MODEL, Model, SsdOutput, load_model
from ingest.errors import GridwatchError
from ingest.event import Box


def overlap(a: Box, b: Box) -> float:
    wide = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    high = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    shared = max(wide, 0) * max(high, 0)
    return shared / (a.w * a.h + b.w * b.h - shared)


# Seconds of the clip and who stands where, drawn by eye: x, y, w, h.
PEOPLE = {
    0: [(0.33, 0.38, 0.05, 0.16), (0.65, 0.28, 0.04, 0.12), (0.84, 0.42, 0.05, 0.15)],
    44: [(0.64, 0.29, 0.04, 0.12), (0.38, 0.34, 0.05, 0.15), (0.80, 0.44, 0.05, 0.18)],
    56: [(0.22, 0.62, 0.09, 0.30), (0.84, 0.53, 0.04, 0.18), (0.11, 0.30, 0.03, 0.12), (0.76, 0.27, 0.04, 0.14)],
}


@pytest.mark.parametrize("second", PEOPLE)
def test_people_and_cars_of_the_clip_are_found_where_they_are(detector, vtest_keyframes, second):
    rgb = KeyframeDecoder().decode(vtest_keyframes[second // 2]).rgb(*detector.input_size)
    found = detector.detect(rgb)
    people = [each for each in found if each.object_class == "person" and each.score >= 0.5]
    for x, y, w, h in PEOPLE[second]:
        assert max(overlap(each.box, Box(x=x, y=y, w=w, h=h)) for each in people) > 0.5
    assert len(people) <= len(PEOPLE[second]) + 1
    assert sum(each.object_class == "car" for each in found) == 2  # both parked, top right
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert {each.object_class for each in found} == {"person", "car"}


def test_an_empty_picture_has_nobody(detector):
    assert detector.detect(np.full((300, 300, 3), 127, np.uint8)) == []


def ssd_output(**changes: object) -> SsdOutput:
    return load_model().description.output.model_copy(update=changes)


def test_ssd_reading_drops_low_scores_foreign_columns_and_doubles():
    boxes = np.array(
        [[0.1, 0.1, 0.5, 0.3], [0.11, 0.1, 0.5, 0.31], [0.1, 0.1, 0.5, 0.3], [-0.2, 0.9, 0.4, 1.3]], np.float32
    )
    scores = np.zeros((1, 4, 90), np.float32)
    scores[0, 0, 0], scores[0, 1, 0] = 0.8, 0.9  # one person twice
    scores[0, 2, 2] = 0.6  # a car at the same place stays: suppression is within a class
    scores[0, 3, 0] = 0.5  # over the picture's edge: clipped
    scores[0, 3, 17] = 0.99  # a dog: not ours
    scores[0, 2, 0] = 0.34  # below the floor
    output = ssd_output()
    found = read_ssd(boxes, scores, output, np.array(list(output.classes.values())), tuple(output.classes))
    assert [(each.object_class, each.score) for each in found] == [("person", 0.9), ("car", 0.6), ("person", 0.5)]
    assert found[0].box == Box(x=0.1, y=0.11, w=0.21, h=0.39)
    assert found[2].box == Box(x=0.9, y=0.0, w=0.1, h=0.4)


def test_suppression_against_the_definition():
    chance = np.random.default_rng(3)
    low = chance.uniform(0, 0.7, (60, 2))
    corners = np.hstack([low, low + chance.uniform(0.05, 0.3, (60, 2))]).astype(np.float32)
    values, kinds = chance.uniform(0.3, 1, 60).astype(np.float32), chance.integers(0, 3, 60)

    def iou(a, b):
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = np.prod(np.maximum(sides, 0))
        return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)

    expected: list[int] = []
    for i in np.argsort(-values):
        if all(kinds[i] != kinds[j] or iou(corners[i], corners[j]) <= 0.5 for j in expected):
            expected.append(int(i))
    assert suppress(corners, values, kinds, 0.5) == expected


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    for name in (DEFAULT_MODEL.name, DEFAULT_MODEL.with_suffix(".onnx").name):
        shutil.copy(DEFAULT_MODEL.with_name(name), tmp_path / name)
    return tmp_path / DEFAULT_MODEL.name


def code_of(path: Path) -> str:
    with pytest.raises(GridwatchError) as caught:
        load_model(path)
    assert "{" not in caught.value.sentence("zh") + caught.value.sentence("en")
    return caught.value.code


def test_a_model_is_verified_before_it_is_used(model_copy: Path):
    assert load_model(model_copy).description.licence == "Apache-2.0"
    assert DEFAULT_MODEL.with_name(load_model().description.licence_file).is_file()
    onnx = model_copy.with_suffix(".onnx")
    with onnx.open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    assert code_of(model_copy) == "model.wrong_sha256"
    onnx.unlink()
    assert code_of(model_copy) == "model.no_file"
    text = model_copy.read_text(encoding="utf-8")
    model_copy.write_text(text.replace("person = 0", "dragon = 0"), encoding="utf-8")
    assert code_of(model_copy) == "model.bad_description"
    model_copy.write_text("[", encoding="utf-8")
    assert code_of(model_copy) == "model.bad_description"
    model_copy.unlink()
    assert code_of(model_copy) == "model.no_description"


def test_a_description_that_does_not_fit_its_model_is_refused_at_start():
    model = load_model()
    feed = model.description.input.model_copy(update={"width_px": 320})
    with pytest.raises(GridwatchError, match=r"model\.cannot_run"):
        OnnxDetector(Model(model.description.model_copy(update={"input": feed}), model.onnx))
    with pytest.raises(GridwatchError, match=r"model\.cannot_run"):
        OnnxDetector(Model(model.description, b"no model"))
