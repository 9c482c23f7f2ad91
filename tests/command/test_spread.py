"""Spreading cameras over workers: level, repeatable, and moving as few as possible."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from command.spread import TOLERANCE, camera_cost, default_workers, spread
from ingest.camera import Camera

ids = st.text("abcdef0123456789", min_size=1, max_size=6)
towns = st.dictionaries(ids, st.floats(0.1, 20), max_size=60)
names = st.integers(1, 8).map(lambda count: [f"worker-{number}" for number in range(1, count + 1)])


def loads(costs: dict[str, float], found: dict[str, str], workers: list[str]) -> list[float]:
    return [sum(costs[camera] for camera, worker in found.items() if worker == name) for name in workers]


@given(towns, names)
@settings(max_examples=80, deadline=None)
def test_every_camera_has_one_worker_and_loads_are_level(costs: dict[str, float], workers: list[str]) -> None:
    found = spread(costs, workers)
    assert found.keys() == costs.keys() and set(found.values()) <= set(workers)
    each = loads(costs, found, workers)
    assert max(each) - min(each) <= max(costs.values(), default=0.0) + 1e-6
    assert spread(dict(reversed(costs.items())), workers) == found
    assert spread(costs, workers, found) == found


@given(towns, towns, names)
@settings(max_examples=80, deadline=None)
def test_a_changed_town_keeps_cameras_where_they_are(
    before: dict[str, float], after: dict[str, float], workers: list[str]
) -> None:
    costs = {**after, **{camera: before[camera] for camera in after.keys() & before.keys()}}
    earlier = spread(before, workers)
    found = spread(costs, workers, earlier)
    each = loads(costs, found, workers)
    mean = sum(each) / len(each)
    assert max(each) - min(each) <= max(TOLERANCE * mean, max(costs.values(), default=0.0)) + 1e-6
    if before.keys() <= costs.keys():  # nobody went: nobody moves
        assert all(found[camera] == earlier[camera] for camera in before)
    gone = len(before.keys() - costs.keys())
    moved = sum(found[camera] != earlier[camera] for camera in costs.keys() & before.keys())
    if len(set(costs.values()) | set(before.values())) == 1:  # equal cameras: each that went is made up for once
        assert moved <= gone


def test_a_second_worker_takes_half_at_a_start() -> None:
    costs = {f"c-{n:03d}": 1.0 for n in range(128)}
    alone = spread(costs, ["worker-1"])
    both = spread(costs, ["worker-1", "worker-2"], alone, tolerance=0.0)
    assert abs(loads(costs, both, ["worker-1", "worker-2"])[0] - 64) <= 1


def test_cost_counts_both_streams_by_what_was_measured() -> None:
    facts = {"id": "c-1", "name": "n", "village": "v", "lon": 115.9, "lat": 38.4, "main": "rtsp://192.0.2.1/main"}
    alone = Camera.model_validate(facts)
    both = Camera.model_validate({**facts, "sub": "rtsp://192.0.2.1/sub"})
    assert camera_cost(alone) > camera_cost(both) > 1.0  # looks at the small stream cost less than pulling it
    assert camera_cost(both, {"c-1/main": 12_000_000.0}) > 2 * camera_cost(both) - 1.0
    assert camera_cost(both, {"c-2/main": 12_000_000.0}) == camera_cost(both)


def test_default_number_of_workers() -> None:
    assert [default_workers(cores) for cores in (1, 2, 3, 4, 16, 64)] == [1, 1, 1, 2, 8, 8]
