"""What travels over MQTT: the bodies on `gridwatch/tasks/{person}` and `gridwatch/answers/{person}`.

Both kinds of message to a device are one model: the newest state of a task. `answer_id` says which answer of the device
it settles; `outbox_id` is what the device confirms with `received`, and is missing in a direct reply to an answer that
changed nothing (the device repeats an unsettled answer, so such a reply needs no outbox row).
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

AnswerStep = Literal["received", "accepted", "on_site", "done", "refused"]
MAX_BODY_BYTES = 16_384


class Answer(BaseModel):
    """One step that a device took on a task. `answer_id` (UUIDv7, made on the device) makes a repetition harmless."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    answer_id: UUID
    person_id: str | None = None  # filled from the topic; another one in the body is refused
    outbox_id: UUID | None = None  # the message that the device confirms with it
    task_id: UUID
    task_revision: Annotated[int, Field(ge=1, le=2**31 - 1)]  # the revision that the person saw when deciding
    step: AnswerStep
    note: Annotated[str, Field(max_length=2000)] | None = None
    at: AwareDatetime  # the device's own clock
    lon: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)] | None = None  # WGS 84
    lat: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)] | None = None
    accuracy_m: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class TaskMessage(BaseModel):
    """The newest state of a task, or (without a task) that an answer could not even be attributed to one."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    person_id: str
    outbox_id: UUID | None = None
    answer_id: UUID | None = None
    answer_applied: bool | None = None
    answer_why: str | None = None  # code of the reason when not applied
    task_id: UUID | None = None
    task_revision: int | None = None
    task_state: str | None = None
    case_id: UUID | None = None
    case_number: int | None = None
    code: str | None = None
    title_zh: str | None = None
    title_en: str | None = None
    note: str | None = None  # what an operator said, when a task is sent back or recalled
    grid_id: str | None = None
    camera_id: str | None = None
    camera_name: str | None = None
    zone_id: str | None = None
    lon: float | None = None
    lat: float | None = None
    offered_at: AwareDatetime | None = None
    due_at: AwareDatetime | None = None
