"""What the recorder tells the index: a segment is whole on disk, a piece of time is missing, segments are deleted.

Facts go into the spool as kind "segment" and are stored by `command.store.segments`. Each may come twice and then
changes nothing: a segment's key is (camera, stream, start in microseconds), the same that its file name holds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from ingest.access_unit import Codec, StreamName

SPOOL_KIND = "segment"


class SegmentKey(BaseModel):
    """What names a segment everywhere; `start_us` is UTC microseconds since the epoch."""

    model_config = ConfigDict(frozen=True)
    camera_id: str
    stream: StreamName
    start_us: int


class SegmentClosed(SegmentKey):
    """The file is complete, synced with its folder, and never written again."""

    fact: Literal["closed"] = "closed"
    end_us: int
    bytes: int
    codec: Codec
    width: int
    height: int
    frames: int
    gaps: int  # places inside where packets were lost
    sha256: str  # of the whole file
    folder: str  # the recording folder, absolute
    path: str  # within it
    recovered: bool = False  # closed by the start after a crash, or by the checker


class Gap(BaseModel):
    """Time for which a stream that is to be recorded has no footage."""

    model_config = ConfigDict(frozen=True)
    fact: Literal["gap"] = "gap"
    camera_id: str
    stream: StreamName
    started_at: AwareDatetime
    ended_at: AwareDatetime
    reason: Literal["stream", "disk_slow", "disk_full", "disk_error"]
    dropped_units: int = 0


class SegmentsRemoved(BaseModel):
    """Said durably before the files are deleted; a death in between leaves files, which the next pass deletes."""

    model_config = ConfigDict(frozen=True)
    fact: Literal["removed"] = "removed"
    reason: Literal["age", "camera_budget", "folder_budget", "global_budget", "disk_reserve"]
    segments: tuple[SegmentKey, ...]


class RecordingAlarm(BaseModel):
    """Something that a person should know of the storage; begins and ends. `camera_id` None: a whole folder."""

    model_config = ConfigDict(frozen=True)
    fact: Literal["alarm"] = "alarm"
    kind: Literal["disk_slow", "disk_full", "disk_error", "retention_short"]
    state: Literal["opened", "closed"]
    at: AwareDatetime
    folder: str
    cameras: tuple[str, ...] = ()
    detail: str = ""


IndexFact = SegmentClosed | Gap | SegmentsRemoved
Fact = IndexFact | RecordingAlarm

index_fact: TypeAdapter[IndexFact] = TypeAdapter(Annotated[IndexFact, Field(discriminator="fact")])
