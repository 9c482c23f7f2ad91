"""An event: something worth a row. One object for its whole life (opened, updated, closed), made where it arises.

Codes follow GB/T 28181 alarm numbering as `method.type`; the catalogue with both languages is `EVENT_CODES`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import uuid_utils
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

EVENT_CODES: dict[str, tuple[str, str]] = {
    "2.1": ("视频丢失", "video loss"),
    "2.2": ("设备防拆", "device tamper"),
    "2.3": ("磁盘已满", "disk full"),
    "5.1": ("人工视频报警", "manual video alarm"),
    "5.2": ("运动目标检测", "motion"),
    "5.3": ("遗留物检测", "object left"),
    "5.4": ("物体移除检测", "object removed"),
    "5.5": ("绊线检测", "line crossed"),
    "5.6": ("入侵检测", "zone intrusion"),
    "5.7": ("逆行检测", "wrong way"),
    "5.8": ("徘徊检测", "loitering"),
    "5.9": ("流量统计", "flow count"),
    "5.10": ("密度检测", "crowd density"),
    "5.11": ("视频异常检测", "video abnormal"),
    "5.12": ("快速移动", "fast movement"),
    "6.1": ("存储设备磁盘故障", "storage disk fault"),
}

EventState = Literal["opened", "updated", "closed"]
Unit = Annotated[float, Field(ge=0, le=1)]


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): made where the thing arises, so that a retry is recognised and stored once."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


class Box(BaseModel):
    """A rectangle in the picture, normalised 0..1, origin top left."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    x: Unit
    y: Unit
    w: Unit
    h: Unit


class Evidence(BaseModel):
    """A picture or clip that is on disk, content-addressed, before the event that names it is emitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: Literal["image/jpeg", "video/mp4"]
    taken_at: AwareDatetime
    width: int
    height: int


class Event(BaseModel):
    """One state of an event. The store keeps one row an event id: the highest (`epoch`, `number`) wins.

    `epoch` grows with every start of the worker that owns the event, `number` with every statement within it.
    `started_at` is fixed for the event's life (it is part of the key).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: UUID
    epoch: int
    number: int
    state: EventState
    code: str = Field(pattern=r"^\d+\.\d+$")
    camera_id: str | None
    rule_id: str | None = None
    zone_id: str | None = None
    priority: int = Field(default=3, ge=1, le=4)  # GB/T 28181: 1 highest
    started_at: AwareDatetime
    updated_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    emitted_at: AwareDatetime | None = None  # when the worker handed it to its spool; for latency figures
    score: Unit | None = None
    object_class: str | None = None
    box: Box | None = None
    lon: float | None = None  # WGS 84
    lat: float | None = None
    place_from: Literal["camera", "ground_point", "reporter"] = "camera"
    evidence: tuple[Evidence, ...] = ()
    attributes: dict[str, Any] = Field(default_factory=dict)

    def order(self) -> tuple[int, int]:
        """What decides between two statements about the same event."""
        return self.epoch, self.number


def utc_s(at: datetime) -> float:
    """Seconds since the epoch of an aware datetime."""
    return at.timestamp()
