"""The town as the store knows it: cameras, people and grids in tables, and places in memory for the writer.

`sync_town` runs at start and after every change of the files. Nothing is deleted that events or cases may name: what is
gone from the files is marked, and a grid that changed gets a new version, so that old events keep the one of their day.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from command.grid_match import GridIndex
from command.grids import ROLES, Grids
from command.store.rows import StoredEvent
from ingest.event import Event
from ingest.streams import Streams

log = logging.getLogger(__name__)

_ONE_SYNC = 0x67726964_746F776E  # advisory lock: two programs that start at once


@dataclass(frozen=True)
class CameraPlace:
    """Where a camera stands."""

    lon: float
    lat: float
    village: str


class Town:
    """Places in memory: finds each event's grid. Immutable; replaced as a whole when the files change."""

    def __init__(self, streams: Streams, grids: Grids) -> None:
        self.cameras: Mapping[str, CameraPlace] = {
            camera.id: CameraPlace(camera.lon, camera.lat, camera.village) for camera in streams.cameras
        }
        self.index = GridIndex(grids)
        self.grid_villages: Mapping[str, str] = {grid.grid_id: grid.village for grid in grids.features}

    def place(self, events: Sequence[Event]) -> list[StoredEvent]:
        """Each event with its place, grid and village, in order. Equal places are matched once."""
        places: list[tuple[float, float, str | None] | None] = []
        for event in events:
            camera = self.cameras.get(event.camera_id) if event.camera_id is not None else None
            village = camera.village if camera is not None else None
            if event.lon is not None and event.lat is not None:
                places.append((event.lon, event.lat, village))
            else:
                places.append((camera.lon, camera.lat, village) if camera is not None else None)
        known = list(dict.fromkeys(place for place in places if place is not None))
        lons, lats = np.array([place[0] for place in known]), np.array([place[1] for place in known])
        matches = self.index.match_many(lons, lats, [place[2] for place in known]) if known else []
        found = dict(zip(known, matches, strict=True))
        stored = []
        for event, place in zip(events, places, strict=True):
            if place is None:
                stored.append(StoredEvent(event, None, None, None, "none", None))
                continue
            grid_id, how = found[place]
            village = self.grid_villages[grid_id] if grid_id is not None else place[2]
            stored.append(StoredEvent(event, place[0], place[1], grid_id, how, village))
        return stored


async def sync_town(conn: AsyncConnection[Any], streams: Streams, grids: Grids) -> None:
    """Bring cameras, people, grids and roles to what the files say, in one transaction. Repeatable."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_ONE_SYNC,))
        await _sync_cameras(conn, streams)
        await _sync_people(conn, grids)
        await _sync_grids(conn, grids)
        await _sync_roles(conn, grids)


async def _sync_cameras(conn: AsyncConnection[Any], streams: Streams) -> None:
    cameras = streams.cameras
    await conn.execute(
        """
        INSERT INTO cameras AS c (camera_id, name, village, lon, lat, heading_deg, zones)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::float8[], %s::jsonb[])
        ON CONFLICT (camera_id) DO UPDATE SET
            name = EXCLUDED.name, village = EXCLUDED.village, lon = EXCLUDED.lon, lat = EXCLUDED.lat,
            heading_deg = EXCLUDED.heading_deg, zones = EXCLUDED.zones, removed_at = NULL
        WHERE (c.name, c.village, c.lon, c.lat, c.heading_deg, c.zones, c.removed_at) IS DISTINCT FROM
              (EXCLUDED.name, EXCLUDED.village, EXCLUDED.lon, EXCLUDED.lat, EXCLUDED.heading_deg, EXCLUDED.zones,
               NULL::timestamptz)
        """,
        (
            [camera.id for camera in cameras],
            [camera.name for camera in cameras],
            [camera.village for camera in cameras],
            [camera.lon for camera in cameras],
            [camera.lat for camera in cameras],
            [camera.heading_deg for camera in cameras],
            [Jsonb([zone.model_dump(mode="json") for zone in camera.zones]) for camera in cameras],
        ),
    )
    gone = await conn.execute(
        "UPDATE cameras SET removed_at = now() WHERE removed_at IS NULL AND camera_id <> ALL(%s)",
        ([camera.id for camera in cameras],),
    )
    if gone.rowcount:
        log.info("cameras are no longer in streams.yaml", extra={"cameras": gone.rowcount})


async def _sync_people(conn: AsyncConnection[Any], grids: Grids) -> None:
    people = {holder.person_id: holder.name for grid in grids.features for holder in map(grid.roles.holder, ROLES)}
    await conn.execute(
        """
        INSERT INTO people AS p (person_id, name) SELECT * FROM unnest(%s::text[], %s::text[])
        ON CONFLICT (person_id) DO UPDATE SET name = EXCLUDED.name, removed_at = NULL
        WHERE p.name <> EXCLUDED.name OR p.removed_at IS NOT NULL
        """,
        (list(people), list(people.values())),
    )
    await conn.execute(
        "UPDATE people SET removed_at = now() WHERE removed_at IS NULL AND person_id <> ALL(%s)", (list(people),)
    )


async def _sync_grids(conn: AsyncConnection[Any], grids: Grids) -> None:
    features = grids.features
    await conn.execute("CREATE TEMP TABLE IF NOT EXISTS grid_stage (LIKE grids) ON COMMIT DELETE ROWS")
    await conn.execute(
        """
        INSERT INTO grid_stage (grid_id, valid_from, name, village, geometry)
        SELECT n.grid_id, now(), n.name, n.village, n.geometry
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::jsonb[]) AS n(grid_id, name, village, geometry)
        """,
        (
            [grid.grid_id for grid in features],
            [grid.properties.name for grid in features],
            [grid.village for grid in features],
            [
                Jsonb({"type": "Polygon", "coordinates": grid.geometry.model_dump(mode="json")["coordinates"]})
                for grid in features
            ],
        ),
    )
    await conn.execute(
        """
        UPDATE grids g SET valid_to = now()
        WHERE g.valid_to IS NULL AND NOT EXISTS (
            SELECT FROM grid_stage n
            WHERE n.grid_id = g.grid_id AND n.name = g.name AND n.village = g.village AND n.geometry = g.geometry)
        """
    )
    made = await conn.execute(
        """
        INSERT INTO grids (grid_id, valid_from, name, village, geometry)
        SELECT grid_id, valid_from, name, village, geometry FROM grid_stage n
        WHERE NOT EXISTS (SELECT FROM grids g WHERE g.grid_id = n.grid_id AND g.valid_to IS NULL)
        """
    )
    if made.rowcount:
        log.info("grids are new or changed", extra={"grids": made.rowcount})


async def _sync_roles(conn: AsyncConnection[Any], grids: Grids) -> None:
    roles = [(grid.grid_id, role, grid.roles.holder(role).person_id) for grid in grids.features for role in ROLES]
    columns = ([row[0] for row in roles], [row[1] for row in roles], [row[2] for row in roles])
    await conn.execute(
        """
        DELETE FROM grid_roles WHERE (grid_id, role) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[]))
        """,
        columns[:2],
    )
    await conn.execute(
        """
        INSERT INTO grid_roles AS r (grid_id, role, person_id) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])
        ON CONFLICT (grid_id, role) DO UPDATE SET person_id = EXCLUDED.person_id
        WHERE r.person_id <> EXCLUDED.person_id
        """,
        columns,
    )
