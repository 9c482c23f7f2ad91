"""The town's grids: polygons with five role holders each, as grids.geojson tells them (RFC 7946, WGS 84).

Read whole, frozen, and replaced as a whole by the next reading; the store keeps the versions. A bad grid never takes
more than itself: `read_grids` returns the good ones beside the problems.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from shapely import Polygon
from shapely.validation import explain_validity

from ingest.camera import Id, Latitude, Longitude, Name, first_twice
from ingest.model_problems import problems_of, shown
from ingest.source_lines import Place, Problem, Source, read_source
from ingest.streams import reject

Role = Literal["patroller", "leader", "supervisor", "police_officer", "volunteer"]
ROLES: tuple[Role, ...] = ("patroller", "leader", "supervisor", "police_officer", "volunteer")
ROLE_NAMES_ZH: dict[str, str] = {
    "patroller": "网格巡查员",
    "leader": "网格长",
    "supervisor": "网格督导员",
    "police_officer": "网格警务员",
    "volunteer": "志愿者",
}

PersonId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{2,31}$")]
"""Phone-like; a level of an MQTT topic, so never with + # or /."""


def _flat(position: Any) -> Any:
    """A position without its altitude, which RFC 7946 allows and nobody needs here."""
    return position[:2] if isinstance(position, list) and len(position) == 3 else position


Position = Annotated[tuple[Longitude, Latitude], BeforeValidator(_flat)]
Ring = Annotated[list[Position], Field(min_length=4, description="positions; the last equals the first")]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Holder(BaseModel):
    """The person who holds a role; the same person may hold roles in several grids."""

    model_config = _STRICT
    person_id: PersonId = Field(description="phone-like id; names the person's MQTT topics")
    name: Name


class Roles(BaseModel):
    """The five role holders of a grid."""

    model_config = _STRICT
    patroller: Holder = Field(description="网格巡查员")
    leader: Holder = Field(description="网格长")
    supervisor: Holder = Field(description="网格督导员")
    police_officer: Holder = Field(description="网格警务员")
    volunteer: Holder = Field(description="志愿者")

    def holder(self, role: Role) -> Holder:
        """Who holds `role`."""
        holder: Holder = getattr(self, role)
        return holder


class GridProperties(BaseModel):
    """What a grid is called, where it belongs and who answers for it."""

    model_config = _STRICT
    grid_id: Id
    name: Name
    village: Name
    roles: Roles


class Geometry(BaseModel):
    """A GeoJSON Polygon: an outer ring and holes, wound either way."""

    model_config = _STRICT
    type: Literal["Polygon"]
    coordinates: list[Ring] = Field(min_length=1)
    bbox: list[float] | None = None

    @field_validator("coordinates")
    @classmethod
    def _simple(cls, rings: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
        for number, ring in enumerate(rings):
            if ring[0] != ring[-1]:
                raise PydanticCustomError("grid.open_ring", "ring is not closed", {"place": [number]})
        shape = Polygon(rings[0], rings[1:])
        if not shape.is_valid:
            why, _, at = explain_validity(shape).partition("[")
            raise PydanticCustomError("grid.crosses_itself", "crosses itself", {"why": why, "at": at.rstrip("]")})
        return rings


class Grid(BaseModel):
    """One feature of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
    type: Literal["Feature"]
    id: str | int | None = Field(default=None, description="ignored; grid_id is what counts")
    bbox: list[float] | None = None
    properties: GridProperties
    geometry: Geometry

    @property
    def grid_id(self) -> str:
        """The user's id of this grid."""
        return self.properties.grid_id

    @property
    def village(self) -> str:
        """The village that it is part of."""
        return self.properties.village

    @property
    def roles(self) -> Roles:
        """Who answers for it."""
        return self.properties.roles

    @cached_property
    def polygon(self) -> Polygon:
        """The shape, (lon, lat) in degrees."""
        return Polygon(self.geometry.coordinates[0], self.geometry.coordinates[1:])


class CrsProperties(BaseModel):
    """As desktop programs write it."""

    model_config = _STRICT
    name: Literal[
        "urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:OGC::CRS84", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326"
    ]


class Crs(BaseModel):
    """RFC 7946 has dropped this member; it is accepted where it says what is meant anyway."""

    model_config = _STRICT
    type: Literal["name"]
    properties: CrsProperties


class Grids(BaseModel):
    """The whole of grids.geojson."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="grids.geojson")
    type: Literal["FeatureCollection"]
    name: str | None = None
    synthetic: bool = Field(default=False, description="true: an invented town, no real place or person")
    bbox: list[float] | None = None
    crs: Crs | None = Field(default=None, description="WGS 84 only; GCJ-02 and BD-09 must be converted first")
    features: list[Grid]
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _unique(self) -> Grids:
        if twice := first_twice(grid.grid_id for grid in self.features):
            raise PydanticCustomError("grids.grid_twice", "grid id given twice", {"id": twice})
        return self

    def grid(self, grid_id: str) -> Grid:
        """The grid of an id.

        Raises:
            KeyError: there is none.
        """
        for grid in self.features:
            if grid.grid_id == grid_id:
                return grid
        raise KeyError(grid_id)

    def line(self, grid_id: str) -> int:
        """The line of a grid's feature in the file that it was read from; 1 if it was made otherwise."""
        return self._lines.get(grid_id, 1)

    def people(self) -> dict[str, str]:
        """person_id -> name of all role holders."""
        return {
            holder.person_id: holder.name
            for grid in self.features
            for holder in (grid.roles.holder(role) for role in ROLES)
        }


def read_grids(path: Path, shown_as: str | None = None) -> tuple[Grids | None, list[Problem]]:
    """The good grids of `path` and all that is wrong with the rest.

    Looks at each grid by itself and at ids and people; whether they tile the town is `command.grid_tiling`'s matter.
    Never raises for what the file holds; (None, …) only if there is no list of features.
    """
    source, problems = read_source(path, shown_as)
    if source is None:
        return None, problems
    problems = source.duplicate_keys(lambda place: _subject(source, place))
    if not isinstance(source.data, dict) or not isinstance(source.data.get("features"), list):
        return None, [*problems, Problem(source.file, source.line(("features",)), "grids.no_features")]
    good: list[Grid] = []
    lines: dict[str, int] = {}
    people: dict[str, tuple[str, int]] = {}
    for number, raw in enumerate(source.data["features"]):
        place: Place = ("features", number)
        subject = _subject(source, place)
        try:
            grid = Grid.model_validate(raw)
        except ValidationError as error:
            problems += map(_with_role, problems_of(error, source, place, Grid, subject, _CODES))
            continue
        if grid.grid_id in lines:
            line = source.line((*place, "properties", "grid_id"))
            facts = {"first_line": lines[grid.grid_id]}
            problems.append(Problem(source.file, line, "grid.duplicate_id", facts, subject))
            continue
        problems += _one_name_each(source, place, grid, people, subject)
        lines[grid.grid_id] = source.line(place)
        good.append(grid)
    head = {key: value for key, value in source.data.items() if key != "features"}
    try:
        grids = Grids.model_validate({**head, "features": good})
    except ValidationError as error:
        problems += problems_of(error, source, (), Grids, None, _CODES)
        grids = Grids(type="FeatureCollection", features=good)
    grids._lines.update(lines)
    return grids, sorted(problems, key=lambda problem: problem.line)


def load_grids(path: Path) -> Grids:
    """All of `path`, for who cannot go on with less.

    Raises:
        GridwatchError: `file.rejected`, naming the first error and how many there are.
    """
    grids, problems = read_grids(path)
    reject(problems)
    assert grids is not None
    return grids


_CODES = (
    {f"file.missing_key properties.roles.{role}": "grid.missing_role" for role in ROLES}
    | {
        "file.missing_key properties.roles": "grid.missing_roles",
        "file.bad_pattern properties.grid_id": "grid.bad_id",
        "file.not_one_of geometry.type": "grid.not_polygon",
        "file.not_one_of crs.properties.name": "grids.wrong_crs",
        "file.out_of_range geometry.coordinates": "grid.bad_position",
        "file.too_short geometry.coordinates": "grid.short_ring",
    }
    | {f"file.bad_pattern properties.roles.{role}.person_id": "grid.bad_person_id" for role in ROLES}
)


def _subject(source: Source, place: Place) -> tuple[str, str] | None:
    """The grid that a place belongs to, by its id, else by its position in the list."""
    if len(place) < 2 or place[0] != "features" or not isinstance(place[1], int):
        return None
    raw = source.data["features"][place[1]]
    properties = raw.get("properties") if isinstance(raw, dict) else None
    given = properties.get("grid_id") if isinstance(properties, dict) else None
    return "grid", shown(given) if given is not None else f"#{place[1] + 1}"


def _with_role(problem: Problem) -> Problem:
    if problem.code != "grid.missing_role":
        return problem
    role = problem.facts["key"].rpartition(".")[2]
    return replace(problem, facts={**problem.facts, "role": role, "role_zh": ROLE_NAMES_ZH[role]})


def _one_name_each(
    source: Source, place: Place, grid: Grid, people: dict[str, tuple[str, int]], subject: tuple[str, str] | None
) -> list[Problem]:
    """A person id with two names is a typing error that would send somebody's tasks to somebody else."""
    found = []
    for role in ROLES:
        holder = grid.roles.holder(role)
        line = source.line((*place, "properties", "roles", role, "person_id"))
        name, first_line = people.setdefault(holder.person_id, (holder.name, line))
        if name != holder.name:
            facts = {"person_id": holder.person_id, "name": holder.name, "other": name, "first_line": first_line}
            found.append(Problem(source.file, line, "grid.person_two_names", facts, subject))
    return found
