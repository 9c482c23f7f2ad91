"""Whether grids tile the town: overlaps and gaps, with the widths that drawing programs leave forgiven.

Works in metres on a plane through the town's middle (an error below 1e-4 for a town of tens of kilometres).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon, STRtree

from command.grids import Grid

FORGIVEN_WIDTH_M = 0.5
"""Slivers narrower than this come from rounding and snapping, and mislead nobody about who owns a place."""

METRES_PER_DEGREE = 111_195.0  # mean radius 6,371 km


@dataclass(frozen=True)
class Overlap:
    """Ground that two grids claim."""

    first: str  # grid ids, the one that stands first in the file first
    second: str
    area_m2: float
    lon: float  # a point inside
    lat: float


@dataclass(frozen=True)
class Gap:
    """Ground enclosed by grids that no grid claims."""

    beside: str  # a grid that borders on it
    area_m2: float
    lon: float
    lat: float


def find_overlaps(grids: list[Grid]) -> list[Overlap]:
    """All pairs of grids that share ground wider than `FORGIVEN_WIDTH_M`, in the file's order."""
    shapes, back = _in_metres(grids)
    first, second = STRtree(shapes).query(shapes, predicate="intersects")
    found = []
    for a, b in sorted(zip(first.tolist(), second.tolist(), strict=True)):
        if a < b:
            shared = shapely.intersection(shapes[a], shapes[b])
            if _is_wide(shared):
                lon, lat = back(shared)
                found.append(Overlap(grids[a].grid_id, grids[b].grid_id, float(shapely.area(shared)), lon, lat))
    return found


def find_gaps(grids: list[Grid]) -> list[Gap]:
    """All enclosed pieces of ground without a grid, wider than `FORGIVEN_WIDTH_M`."""
    shapes, back = _in_metres(grids)
    together = shapely.union_all(shapes)
    tree = STRtree(shapes)
    found = []
    for part in shapely.get_parts(together):
        for ring in part.interiors:
            hole = Polygon(ring)
            if _is_wide(hole):
                beside = grids[int(tree.nearest(hole))].grid_id
                lon, lat = back(hole)
                found.append(Gap(beside, hole.area, lon, lat))
    return found


def _in_metres(
    grids: list[Grid],
) -> tuple[NDArray[np.object_], Callable[[shapely.Geometry], tuple[float, float]]]:
    """The shapes on a plane, and the way back: a point inside such a shape as (lon, lat)."""
    shapes = np.array([grid.polygon for grid in grids], dtype=object)
    west, south, east, north = shapely.total_bounds(shapes) if grids else (0.0, 0.0, 0.0, 0.0)
    middle = np.array([(west + east) / 2, (south + north) / 2])
    scale = np.array([math.cos(math.radians(middle[1])) * METRES_PER_DEGREE, METRES_PER_DEGREE])

    def back(shape: shapely.Geometry) -> tuple[float, float]:
        point = shapely.point_on_surface(shape)
        lon, lat = np.array([shapely.get_x(point), shapely.get_y(point)]) / scale + middle
        return round(float(lon), 6), round(float(lat), 6)

    return shapely.transform(shapes, lambda degrees: (degrees - middle) * scale), back


def _is_wide(shape: shapely.Geometry) -> bool:
    """Whether anything is left when half the forgiven width is taken off all around."""
    return bool(shapely.area(shape) > 0 and not shapely.is_empty(shapely.buffer(shape, -FORGIVEN_WIDTH_M / 2)))
