"""Grids as GeoJSON."""

from __future__ import annotations

from fastapi import APIRouter

from command.store import queries
from command.web.reach import Connection
from command.web.rights import right
from command.web.shapes import GridCollection, GridFeature, GridProperties

router = APIRouter(prefix="/api/v1/grids", tags=["grids"])


@router.get("", dependencies=[right("grids.read")])
async def list_grids(conn: Connection) -> GridCollection:
    """All grids in force with their role holders, a GeoJSON FeatureCollection."""
    return GridCollection(
        features=[
            GridFeature(id=row["grid_id"], geometry=row["geometry"], properties=GridProperties.model_validate(row))
            for row in await queries.grids(conn)
        ]
    )
