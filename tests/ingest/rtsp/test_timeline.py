"""pts, dts and wall time: jumps, resets, a stalled RTP clock, unsaid B-frames, slew, steps of the server's clock."""

from __future__ import annotations

import itertools
import random

import pytest

from ingest.rtsp.timeline import Timeline
from ingest.rtsp.wall_fit import MAX_SLEW, WallFit

TICKS = 3600


def timeline() -> tuple[Timeline, list[int]]:
    depths: list[int] = []
    made = Timeline(depths.append)
    made.set_wall_offset(1_000_000.0)
    return made, depths


@pytest.mark.parametrize("by_s", [3600, -3600, 40, -40, 86_400])
def test_a_jump_is_a_discontinuity_and_time_goes_on(by_s: int) -> None:
    line, _ = timeline()
    before = [line.stamp(n * TICKS, n * 0.04) for n in range(50)]
    after = [line.stamp((n * TICKS + by_s * 90_000) & 0xFFFFFFFF, n * 0.04) for n in range(50, 100)]
    both = before + after
    assert [number for number, stamp in enumerate(both) if stamp[3]] == [0, 50]
    steps = {b[0] - a[0] for a, b in itertools.pairwise(both)}
    assert steps == {TICKS}
    assert both[99][2] - both[0][2] == pytest.approx(99 * 0.04, abs=0.05)


def test_a_camera_that_pauses_and_counts_on_is_no_discontinuity() -> None:
    line, _ = timeline()
    line.stamp(0, 0.0)
    assert line.stamp(30 * 90_000, 30.0)[3] is False


def test_a_network_stall_with_a_burst_behind_is_none_either() -> None:
    line, _ = timeline()
    stamps = [line.stamp(n * TICKS, n * 0.04) for n in range(100)]
    stamps += [line.stamp(n * TICKS, 12.0 + n * 0.001) for n in range(100, 300)]
    assert sum(stamp[3] for stamp in stamps) == 1


def test_a_stalled_rtp_clock_still_grows() -> None:
    line, _ = timeline()
    stamps = [line.stamp(5, n * 0.04) for n in range(100)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(stamps))
    assert sum(stamp[3] for stamp in stamps) == 1


def test_unsaid_b_frames_are_observed() -> None:
    line, depths = timeline()
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]
    stamps = [line.stamp(n * TICKS, i * 0.04) for i, n in enumerate(order)]
    assert depths == [1]
    settled = stamps[3:]
    assert all(dts <= pts for pts, dts, _, _ in settled)
    assert all(a[1] < b[1] for a, b in itertools.pairwise(settled))
    assert [n for n, stamp in enumerate(stamps) if stamp[3]] == [0, 2]


def test_a_step_of_the_servers_clock_is_a_discontinuity() -> None:
    line, _ = timeline()
    line.stamp(0, 0.0)
    line.set_wall_offset(1_000_000.0001)
    assert line.stamp(TICKS, 0.04)[3] is False
    line.set_wall_offset(1_003_600.0)
    stamp = line.stamp(2 * TICKS, 0.08)
    assert stamp[3] is True and stamp[2] == pytest.approx(1_003_600.08)


def test_wall_time_does_not_jitter_with_the_network() -> None:
    rng = random.Random(3)
    fit = WallFit()
    answers = [fit.taken_s(n * 0.04, n * 0.04 + 0.02 + rng.expovariate(20)) for n in range(5000)]
    steps = [b[0] - a[0] for a, b in itertools.pairwise(answers)][300:]
    assert max(abs(step - 0.04) for step in steps) <= 0.04 * MAX_SLEW + 1e-9
    assert answers[-1][0] == pytest.approx(4999 * 0.04 + 0.02, abs=0.005)


@pytest.mark.parametrize("ppm", [-100, 100, 300])
def test_a_cameras_crystal_is_followed(ppm: int) -> None:
    fit = WallFit()
    last = 0.0
    for n in range(25 * 600):
        arrival = n * 0.04 * (1 + ppm * 1e-6)
        last = fit.taken_s(n * 0.04, arrival)[0] - arrival
    assert abs(last) < 0.01


def test_a_burst_at_the_start_does_not_set_the_date() -> None:
    fit = WallFit()
    for n in range(50):
        fit.taken_s(n * 0.04, 100.0)  # two seconds of cached pictures at once
    assert fit.taken_s(2.0, 100.04)[0] == pytest.approx(100.04, abs=0.05)


def test_a_clock_that_lags_for_good_steps_once() -> None:
    fit = WallFit()
    steps = 0
    for n in range(25 * 60):
        late = 8.0 if n > 25 * 20 else 0.0  # the camera paused its media clock for 8 s
        answer, stepped = fit.taken_s(n * 0.04, n * 0.04 + late)
        steps += stepped
    assert steps == 1 and answer == pytest.approx(n * 0.04 + 8.0, abs=0.01)
