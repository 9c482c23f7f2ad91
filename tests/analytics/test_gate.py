from __future__ import annotations

import cv2
import numpy as np

from analytics.decode import KeyframeDecoder
from analytics.gate import HEIGHT_PX, WIDTH_PX, Gate


def scene(chance, noise=3.0, light=0.0):
    base = cv2.resize(np.random.default_rng(1).uniform(40, 200, (12, 20)), (WIDTH_PX, HEIGHT_PX))
    return np.clip(base + chance.normal(0, noise, base.shape) + light, 0, 255).astype(np.uint8)


def settled(chance, **kind):
    gate = Gate()
    for _ in range(24):
        gate.unchanged(scene(chance, **kind))
    while gate.unchanged(scene(chance, **kind)):
        pass
    return gate


def test_a_quiet_scene_saves_three_of_four_detections_and_never_more():
    chance = np.random.default_rng(2)
    gate = settled(chance)
    answers = [gate.unchanged(scene(chance)) for _ in range(40)]
    assert sum(answers) == 30
    assert "1111" not in "".join(str(int(answer)) for answer in answers)


def test_slow_light_is_no_change():
    chance = np.random.default_rng(3)
    gate = settled(chance)
    assert sum(gate.unchanged(scene(chance, light=4 * np.sin(n / 5))) for n in range(40)) == 30


def test_somebody_small_is_a_change_at_every_place():
    chance = np.random.default_rng(4)
    gate = settled(chance)
    for _ in range(30):
        picture = scene(chance)
        x, y = chance.integers(0, WIDTH_PX - 4), chance.integers(0, HEIGHT_PX - 9)
        patch = picture[y : y + 9, x : x + 4]
        patch[:] = np.where(patch > 120, patch - 60, patch + 60)  # 5 % of the picture's height
        assert not gate.unchanged(picture)
        gate = settled(chance)


def test_what_creeps_in_is_noticed_because_changes_add_up():
    chance = np.random.default_rng(5)
    gate = settled(chance)
    answers = []
    for step in range(12):
        picture = scene(chance)
        picture[60:120, 100:130] = np.clip(picture[60:120, 100:130].astype(int) + 3 * step, 0, 255)
        answers.append(gate.unchanged(picture))
    assert answers.count(False) > 3  # 3 would be the forced ones alone


def test_a_busy_street_saves_nothing(vtest_keyframes):
    gate, decoder = Gate(), KeyframeDecoder()
    pictures = (decoder.decode(unit) for unit in vtest_keyframes[:12])
    assert sum(gate.unchanged(picture.gray(WIDTH_PX, HEIGHT_PX)) for picture in pictures) == 0
