"""Grid matching: one owner everywhere, on the committed town and on random tilings with holes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPoint, Point, Polygon, box

from command.grid_match import GridIndex
from command.grids import ROLES, Grid, load_grids

ROOT = Path(__file__).parents[2]


def _grid(grid_id: str, polygon: Polygon, village: str = "村") -> Grid:
    rings = [[list(xy) for xy in ring.coords] for ring in (polygon.exterior, *polygon.interiors)]
    return Grid.model_validate(
        {
            "type": "Feature",
            "properties": {
                "grid_id": grid_id,
                "name": grid_id,
                "village": village,
                "roles": {role: {"person_id": "10000000001", "name": "甲"} for role in ROLES},
            },
            "geometry": {"type": "Polygon", "coordinates": rings},
        }
    )


@pytest.fixture(scope="module")
def town() -> list[Grid]:
    return load_grids(ROOT / "grids.geojson").features


def _owners_by_brute_force(grids: list[Grid], point: Point) -> list[str]:
    return sorted(grid.grid_id for grid in grids if grid.polygon.intersects(point))


def test_a_shared_border_belongs_to_the_smallest_id_whatever_the_order() -> None:
    west, east = _grid("b", box(0, 0, 1, 1)), _grid("a", box(1, 0, 2, 1))
    for order in ([west, east], [east, west]):
        index = GridIndex(order)
        assert index.match(1.0, 0.5) == ("a", "inside")
        assert index.match(0.5, 0.5) == ("b", "inside")


def test_outside_is_the_nearest_of_the_same_village_and_says_so() -> None:
    index = GridIndex(
        [_grid("a", box(0, 0, 1, 1), "东"), _grid("b", box(1, 0, 2, 1), "西"), _grid("c", box(0, 2, 1, 3), "西")]
    )
    assert index.match(-0.1, 0.5, "东") == ("a", "nearest")
    assert index.match(-0.1, 0.5, "西") == ("b", "nearest")  # a is nearer, but another village's
    assert index.match(-0.1, 0.5, "南") == (None, "none")
    assert index.match(-0.1, 0.5) == (None, "none")
    assert index.match(0.5, 0.5, "西") == ("a", "inside")  # the place counts, not what the camera says


def test_nearest_is_measured_on_the_ground_not_in_degrees() -> None:
    # At 60° north a degree of longitude is half a degree of latitude: b is 0.3° away in x, a 0.2° in y.
    index = GridIndex(
        [_grid("a", box(0, 60.2, 1, 60.4)), _grid("b", box(1.3, 59, 2, 60.0)), _grid("z", box(0, 59.4, 1, 59.6))]
    )
    assert index.match(1.0, 60.0, "村") == ("b", "nearest")


def test_a_hole_belongs_to_nobody_and_no_place_at_all_matches_nothing() -> None:
    ring = Polygon([(0, 0), (3, 0), (3, 3), (0, 3)], [[(1, 1), (2, 1), (2, 2), (1, 2)]])
    index = GridIndex([_grid("a", ring)])
    assert index.match(1.5, 1.5) == (None, "none")
    assert index.match(1.5, 1.5, "村") == ("a", "nearest")
    assert index.match(1.0, 1.5) == ("a", "inside")  # the hole's border
    assert index.match(float("nan"), 1.5, "村") == (None, "none")
    assert index.match(float("inf"), 1.5, "村") == (None, "none")
    assert GridIndex([]).match(1, 1, "村") == (None, "none")


def test_everywhere_in_the_committed_town_has_one_owner(town: list[Grid]) -> None:
    index = GridIndex(town)
    whole = shapely.union_all([grid.polygon for grid in town])
    assert isinstance(whole, Polygon) and not whole.interiors
    west, south, east, north = whole.bounds
    dice = np.random.default_rng(5)
    lons, lats = dice.uniform(west, east, 40_000), dice.uniform(south, north, 40_000)
    # Corners and points on the edges (as near as doubles come), where the doubtful cases are.
    corners = shapely.get_coordinates([grid.polygon for grid in town])
    along = dice.uniform(0, 1, (len(corners) - 1, 1))
    edges = corners[:-1] * along + corners[1:] * (1 - along)
    places = np.concatenate((np.column_stack((lons, lats)), corners, edges))
    found = index.match_many(places[:, 0], places[:, 1])
    inside = shapely.intersects(whole, shapely.points(places))
    assert [how == "inside" for _, how in found] == inside.tolist()
    for (grid_id, _), (x, y) in list(zip(found, places, strict=True))[::97]:
        owners = _owners_by_brute_force(town, Point(x, y))
        assert grid_id == (owners[0] if owners else None)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 24), holes=st.integers(0, 3))
def test_random_tilings_with_holes_have_one_owner_everywhere(seed: int, count: int, holes: int) -> None:
    dice = random.Random(seed)
    area = box(115.0, 38.0, 115.1, 38.1)
    seeds = MultiPoint([(dice.uniform(115, 115.1), dice.uniform(38, 38.1)) for _ in range(count)])
    lines = [
        cell.intersection(area).exterior for cell in shapely.get_parts(shapely.voronoi_polygons(seeds, extend_to=area))
    ]
    for _ in range(holes):
        x, y = dice.uniform(115.01, 115.08), dice.uniform(38.01, 38.08)
        lines.append(box(x, y, x + 0.01, y + 0.01).exterior)
    faces = shapely.get_parts(shapely.polygonize([shapely.union_all(lines, grid_size=1e-6)])).tolist()
    dice.shuffle(faces)
    missing = faces[:holes]  # ground that nobody owns
    grids = [_grid(f"g-{dice.randrange(10**6)}-{i}", face) for i, face in enumerate(faces[holes:])]
    if not grids:
        return
    index = GridIndex(grids)
    corners = shapely.get_coordinates([grid.polygon for grid in grids])
    free = np.array([(dice.uniform(114.99, 115.11), dice.uniform(37.99, 38.11)) for _ in range(60)])
    middles = (corners[:-1] + corners[1:]) / 2
    places = np.concatenate((corners, middles, free))
    found = index.match_many(places[:, 0], places[:, 1], ["村"] * len(places))
    for (grid_id, how), (x, y) in zip(found, places, strict=True):
        owners = _owners_by_brute_force(grids, Point(x, y))
        assert (how == "inside") == bool(owners)
        assert grid_id == owners[0] if owners else grid_id in index.grid_ids
        assert index.match(x, y, "村") == (grid_id, how)
    for hole in missing:
        point = hole.representative_point()
        assert index.match(point.x, point.y) == (None, "none")


def test_two_hundred_thousand_points_a_second(town: list[Grid]) -> None:
    index = GridIndex(town)
    west, south, east, north = shapely.total_bounds([grid.polygon for grid in town])
    dice = np.random.default_rng(7)
    count = 100_000
    lons, lats = dice.uniform(west, east, count), dice.uniform(south, north, count)
    villages = [town[i % len(town)].village for i in range(count)]
    best_s = min(_seconds(lambda: index.match_many(lons, lats, villages)) for _ in range(3))
    assert count / best_s > 200_000


def _seconds(work: object) -> float:
    assert callable(work)
    start_s = time.process_time()  # CPU time: the figure is about the work, not about who else runs here
    work()
    return time.process_time() - start_s
