"""What the API answers, typed: one model a noun, shared by routes, OpenAPI and page. Times are UTC, ISO 8601."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ingest.event import EVENT_CODES, Box, Evidence
from ingest.health import StreamHealth

Thing = TypeVar("Thing")


class Shape(BaseModel):
    """Built from database rows; columns that the API does not tell are left out."""

    model_config = ConfigDict(extra="ignore")


class Page(Shape, Generic[Thing]):
    """One page of a list, newest first; `next` is the `cursor` of the following page, null at the end."""

    items: list[Thing]
    next: str | None = None


class Titled(Shape):
    """Something with an event code, and the code's name in both languages."""

    code: str
    title_zh: str = ""
    title_en: str = ""

    def model_post_init(self, _: Any) -> None:
        self.title_zh, self.title_en = EVENT_CODES.get(self.code, (self.code, self.code))


class ZoneShape(Shape):
    """A polygon in the camera's picture, corners normalised 0..1, origin top left."""

    id: str
    name: str | None = None
    polygon: list[tuple[float, float]]


class CameraHealth(Shape):
    """The state of a camera's main stream, with the reason in both languages."""

    camera_id: str
    state: str
    since: datetime
    reason_code: str | None
    reason_zh: str | None
    reason_en: str | None
    faults: list[str] = Field(default=[], description="codes of what is wrong beside the state, of any stream")


class StreamShape(StreamHealth):
    """A stream's health with sentences in the caller's language. Facts hold no credentials."""

    reason: str | None = None
    last_error: str | None = Field(default=None, description="why it was not live the last time")
    fault_sentences: list[str] = Field(default=[], description="one for each of `faults`")


class CameraShape(Shape):
    """A camera. `health` is null while no worker has it."""

    camera_id: str
    name: str
    village: str
    lon: float
    lat: float
    heading_deg: float | None
    zones: list[ZoneShape]
    removed: bool = Field(description="no longer in streams.yaml; kept because events name it")
    health: CameraHealth | None = None


class CameraDetail(CameraShape):
    """A camera with the figures of each stream."""

    streams: list[StreamShape] = []
    picture_taken_at: datetime | None = None


class GridProperties(Shape):
    """A grid and its five role holders, role to person's name."""

    grid_id: str
    name: str
    village: str
    roles: dict[str, str] = {}


class GridFeature(Shape):
    """A GeoJSON feature (RFC 7946), WGS 84."""

    type: Literal["Feature"] = "Feature"
    id: str
    geometry: dict[str, Any]
    properties: GridProperties


class GridCollection(Shape):
    """All grids in force."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[GridFeature]


class EventShape(Titled):
    """An event as it stands, with its place and the case that it belongs to."""

    id: UUID
    state: Literal["opened", "updated", "closed"]
    camera_id: str | None
    camera_name: str | None = None
    rule_id: str | None
    zone_id: str | None
    priority: int
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    emitted_at: datetime | None = None
    stored_at: datetime | None = None
    score: float | None
    object_class: str | None
    box: Box | None
    lon: float | None
    lat: float | None
    place_from: str
    grid_id: str | None = None
    grid_name: str | None = None
    grid_match: Literal["inside", "nearest", "none"] | None = None
    village: str | None = None
    evidence: list[Evidence] = []
    attributes: dict[str, Any] = {}
    case_id: UUID | None = None
    case_number: int | None = None


class TaskShape(Titled):
    """A case's order to one person. `confirmed`: the person's device has confirmed that it has it as it stands."""

    task_id: UUID
    case_id: UUID
    case_number: int
    revision: int
    state: str
    is_lead: bool
    person_id: str
    person_name: str
    grid_id: str | None
    grid_name: str | None = None
    offered_at: datetime
    changed_at: datetime
    due_at: datetime | None
    confirmed: bool


class TaskStepShape(Shape):
    """One answer of a person. Not applied ones are kept as notes, with the reason's code."""

    step_id: UUID
    revision: int | None
    at: datetime
    received_at: datetime
    person_id: str | None
    person_name: str | None = None
    step: str
    from_state: str | None
    to_state: str | None
    applied: bool
    why: str | None
    note: str | None
    lon: float | None
    lat: float | None
    accuracy_m: float | None


class TaskDetail(TaskShape):
    """A task with everything that was said about it, oldest first."""

    steps: list[TaskStepShape]


class CaseShape(Titled):
    """A case as it stands. `lead_task` is the newest lead task."""

    case_id: UUID
    number: int
    revision: int
    state: str
    grid_id: str | None
    grid_name: str | None = None
    village: str | None
    camera_id: str | None
    camera_name: str | None = None
    zone_id: str | None
    lon: float | None
    lat: float | None
    opened_at: datetime
    changed_at: datetime
    closed_at: datetime | None
    event_count: int = 1
    lead_task: TaskShape | None = None


class CaseStepShape(Shape):
    """One step of a case; `revision` is the case's revision that it made. No person: the system itself."""

    step_id: UUID
    revision: int
    at: datetime
    person_id: str | None
    person_name: str | None = None
    step: str
    from_state: str | None
    to_state: str
    note: str | None
    detail: dict[str, Any] = {}


class CaseDetail(CaseShape):
    """A case with what it rests on, what was done, and what an operator may do next."""

    events: list[EventShape]
    steps: list[CaseStepShape]
    tasks: list[TaskShape]
    allowed_steps: list[str]


class StepRequest(BaseModel):
    """An operator's step. `expected_revision` is the case's revision that the operator has seen."""

    model_config = ConfigDict(extra="forbid")
    step: Annotated[str, Field(min_length=1, max_length=40)]
    expected_revision: Annotated[int, Field(ge=1, le=2**31 - 1)]
    note: Annotated[str | None, BeforeValidator(lambda v: v.strip() or None if isinstance(v, str) else v)] = Field(
        default=None, max_length=2000
    )
    step_id: UUID | None = Field(default=None, description="made by the caller: repeating the request is harmless")


class StepAnswer(Shape):
    """Where the case stands after the step and what followed from it."""

    case_id: UUID
    revision: int
    state: str
    allowed_steps: list[str]


class Counts(Shape):
    """What the header shows."""

    open_cases: int
    unconfirmed_tasks: int


class TownShape(Shape):
    """What a page needs to know before anything else."""

    timezone: str
    lang: str
    version: str
    now: datetime
    counts: Counts


class PartShape(Shape):
    """One part's health."""

    name: str
    ok: bool
    reason: str | None = None


class HealthAnswer(Shape):
    """`ok` is false, and the status 503, when a part that the chain needs does not run."""

    ok: bool
    parts: list[PartShape]
    cameras_live: int
    cameras_total: int
    spooled_rows: int
