"""A camera with its zones and rules, as streams.yaml tells it.

Models only; `ingest.streams` reads the file. Objects are frozen and live until the next reading of the file.
Unknown keys are errors, since a mistyped key would otherwise be a rule that never fires.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ingest.recording_settings import Retention
from ingest.secret import SecretUrl

ObjectClass = Literal["person", "bicycle", "car", "motorcycle", "bus", "truck"]
"""The product's vocabulary; a detector's own classes are mapped to it."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$")]
"""Stands in URLs, file names and MQTT topics."""
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", strip_whitespace=True, max_length=80)]
Hours = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="degrees east, WGS 84")]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, description="degrees north, WGS 84")]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Zone(BaseModel):
    """An area of the picture, in fractions of its width and height, origin top left."""

    model_config = _STRICT
    id: Id
    name: Name
    polygon: list[tuple[Fraction, Fraction]] = Field(
        min_length=3, max_length=64, description="corners (x, y), 0..1, at least three; the last joins the first"
    )

    @field_validator("polygon")
    @classmethod
    def _simple(cls, polygon: list[tuple[float, float]]) -> list[tuple[float, float]]:
        from shapely import Polygon  # here, because models are imported by processes that never read the file
        from shapely.validation import explain_validity

        shape = Polygon(polygon)
        if not shape.is_valid:
            why, _, at = explain_validity(shape).partition("[")
            raise PydanticCustomError("zone.crosses_itself", "crosses itself", {"why": why, "at": at.rstrip("]")})
        if shape.area < 1e-6:
            raise PydanticCustomError("zone.no_area", "has no area")
        return polygon


class Rule(BaseModel):
    """What makes an event of what is seen in a zone."""

    model_config = _STRICT
    id: Id
    kind: Literal["zone_intrusion"] = "zone_intrusion"
    zone: Id = Field(description="id of one of this camera's zones")
    classes: list[ObjectClass] = Field(default=["person"], min_length=1)
    min_score: Fraction = Field(default=0.5, description="a detection below this score is not looked at")
    active_hours: list[Hours] = Field(
        default=["00:00-24:00"], min_length=1, description="HH:MM-HH:MM in the town's time; may cross midnight"
    )
    priority: int = Field(default=3, ge=1, le=4, description="GB/T 28181: 1 is highest")
    cooldown_s: float = Field(
        default=60, ge=0, le=86_400, allow_inf_nan=False, description="after an event, silence in this zone, seconds"
    )

    @field_validator("active_hours")
    @classmethod
    def _not_empty(cls, hours: list[str]) -> list[str]:
        for span in hours:
            start, _, end = span.partition("-")
            if start == end:
                raise PydanticCustomError("rule.empty_hours", "empty span", {"span": span})
        return hours

    def is_active(self, at: datetime, zone: ZoneInfo) -> bool:
        """Whether `at` (aware) lies in the active hours, told by the town's wall clock; a start counts, an end not."""
        local = at.astimezone(zone)
        minute = local.hour * 60 + local.minute
        for span in self.active_hours:
            start, end = (int(text[:2]) * 60 + int(text[3:]) for text in span.split("-"))
            if start <= minute < end if start < end else minute >= start or minute < end:
                return True
        return False


class Camera(BaseModel):
    """One device with a main stream and usually a sub stream. URLs are serialised redacted."""

    model_config = _STRICT
    id: Id
    name: Name
    village: Name
    lon: Longitude
    lat: Latitude
    heading_deg: float | None = Field(
        default=None, ge=0, lt=360, allow_inf_nan=False, description="where it looks: 0 north, 90 east"
    )
    main: SecretUrl = Field(description="rtsp:// or rtsps:// URL; ${NAME} and file: are resolved when read")
    sub: SecretUrl | None = Field(default=None, description="URL of the small stream, if the camera has one")
    transport: Literal["auto", "tcp", "udp", "libav"] = Field(
        default="auto", description="auto tries TCP, then UDP; libav leaves the session to FFmpeg"
    )
    audio: Literal["off", "on"] = Field(default="off", description="on records what is said in a public street")
    record: Literal["main", "sub", "both", "none"] = Field(default="main", description="which streams are kept")
    retention: Retention = Field(default=Retention(), description="how long the main stream's footage is kept")
    retention_sub: Retention = Field(default=Retention(), description="how long the sub stream's footage is kept")
    zones: list[Zone] = []
    rules: list[Rule] = []

    @model_validator(mode="after")
    def _consistent(self) -> Camera:
        for key, ids in (("zones", [z.id for z in self.zones]), ("rules", [r.id for r in self.rules])):
            if twice := first_twice(ids):
                facts = {"key": key, "id": twice, "place": [key, len(ids) - 1 - ids[::-1].index(twice), "id"]}
                raise PydanticCustomError("camera.id_twice", "id given twice", facts)
        known = [z.id for z in self.zones]
        for number, rule in enumerate(self.rules):
            if rule.zone not in known:
                facts = {
                    "rule": rule.id,
                    "zone": rule.zone,
                    "known": ", ".join(known),
                    "place": ["rules", number, "zone"],
                }
                raise PydanticCustomError("camera.no_such_zone", "no such zone", facts)
        return self

    def zone(self, zone_id: str) -> Zone:
        """The zone of an id.

        Raises:
            KeyError: there is none.
        """
        for zone in self.zones:
            if zone.id == zone_id:
                return zone
        raise KeyError(zone_id)

    def records(self, stream: str) -> bool:
        """Whether a stream that the camera has is to be recorded."""
        return self.record in (stream, "both") and self.url(stream) is not None

    def url(self, stream: str) -> SecretUrl | None:
        """The URL of "main" or "sub"."""
        return self.main if stream == "main" else self.sub


def first_twice(ids: Iterable[str]) -> str | None:
    """The first id that stands there a second time, or None."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            return one
        seen.add(one)
    return None
