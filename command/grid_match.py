"""Which grid a place belongs to. Built once from the grids in force, read by everybody, replaced with them.

The rule: the grid whose polygon holds the point; on a shared border the one with the smallest grid id, so that a point
has one owner whatever the order of the file; outside all of them the nearest grid of the same village (ties again by
the smallest id), said as "nearest"; else none. Holes belong to no grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree

from command.grids import Grid, Grids

Match = Literal["inside", "nearest", "none"]
_HOW: tuple[Match, ...] = ("none", "inside", "nearest")


class GridIndex:
    """Immutable after construction; `match` may be called from any thread."""

    def __init__(self, grids: Grids | Sequence[Grid]) -> None:
        listed = list(grids.features if isinstance(grids, Grids) else grids)
        ordered = sorted(listed, key=lambda grid: grid.grid_id)  # so that the smallest index is the smallest id
        self.grid_ids: tuple[str, ...] = tuple(grid.grid_id for grid in ordered)
        self._shapes = np.array([grid.polygon for grid in ordered], dtype=object)
        self._tree = STRtree(self._shapes)
        # Degrees of longitude are shorter than those of latitude: nearest is measured on a plane through the middle.
        middle = shapely.total_bounds(self._shapes)[1::2].mean() if ordered else 0.0
        self._stretch = np.array([math.cos(math.radians(middle)), 1.0])
        self._villages: dict[str, tuple[NDArray[np.intp], STRtree]] = {}
        for village in {grid.village for grid in ordered}:
            members = np.array([i for i, grid in enumerate(ordered) if grid.village == village], dtype=np.intp)
            self._villages[village] = members, STRtree(self._plane(self._shapes[members]))

    def match(self, lon: float, lat: float, village: str | None = None) -> tuple[str | None, Match]:
        """The grid of a place (WGS 84 degrees) and how it was found; (None, "none") if there is none."""
        [found], [how] = self.match_indices(np.array([lon]), np.array([lat]), [village])
        return (self.grid_ids[found] if found >= 0 else None), _HOW[how]

    def match_many(
        self, lons: NDArray[np.float64], lats: NDArray[np.float64], villages: Sequence[str | None] | None = None
    ) -> list[tuple[str | None, Match]]:
        """`match` for many places at once, in their order."""
        found, how = self.match_indices(lons, lats, villages)
        ids = (*self.grid_ids, None)  # index -1 is None
        return [(ids[i], _HOW[h]) for i, h in zip(found.tolist(), how.tolist(), strict=True)]

    def match_indices(
        self, lons: NDArray[np.float64], lats: NDArray[np.float64], villages: Sequence[str | None] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """The same as arrays: index into `grid_ids` (-1: none), and 0 none, 1 inside, 2 nearest."""
        places = np.column_stack((lons, lats)).astype(np.float64)
        places[~np.isfinite(places).all(axis=1)] = np.nan  # an empty point: in no grid, near none
        points: NDArray[np.object_] = shapely.points(places)  # type: ignore[assignment]
        at, grid = self._tree.query(points, predicate="intersects")
        nobody = len(self.grid_ids)
        found = np.full(len(points), nobody, dtype=np.intp)
        np.minimum.at(found, at, grid)
        how = (found < nobody).astype(np.uint8)
        found[found == nobody] = -1
        if villages is not None:
            self._to_nearest(points, villages, found, how)
        return found, how

    def _to_nearest(
        self,
        points: NDArray[np.object_],
        villages: Sequence[str | None],
        found: NDArray[np.intp],
        how: NDArray[np.uint8],
    ) -> None:
        outside: dict[str, list[int]] = {}
        for i in np.flatnonzero((how == 0) & np.isfinite(shapely.get_x(points))).tolist():
            village = villages[i]
            if village is not None and village in self._villages:
                outside.setdefault(village, []).append(i)
        for village, places in outside.items():
            members, tree = self._villages[village]
            at, near = tree.query_nearest(self._plane(points[places]))
            nearest = np.full(len(places), len(self.grid_ids), dtype=np.intp)
            np.minimum.at(nearest, at, members[near])
            found[places] = nearest
            how[places] = 2

    def _plane(self, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
        stretched: NDArray[np.object_] = shapely.transform(shapes, lambda degrees: degrees * self._stretch)
        return stretched
