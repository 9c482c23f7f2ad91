"""What streams.yaml says about recording: folders, budgets, how long each class of footage is kept. Frozen models.

Apart from the recorder, so that who only reads the file does not load it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]
Gigabytes = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
_STRICT = ConfigDict(frozen=True, extra="forbid")

GB = 1_000_000_000


class Retention(BaseModel):
    """How long footage is kept; what is left out is taken from the next wider setting."""

    model_config = _STRICT
    continuous_days: Days | None = Field(default=None, description="footage in which nothing happened")
    event_days: Days | None = Field(default=None, description="footage of events, at least continuous_days")
    max_gb: Gigabytes | None = Field(default=None, description="10^9 bytes for this stream; the oldest goes first")

    def over(self, wider: Retention) -> Retention:
        """This, filled up from `wider`; a budget is never inherited."""
        return Retention(
            continuous_days=self.continuous_days or wider.continuous_days,
            event_days=self.event_days or wider.event_days,
            max_gb=self.max_gb,
        )


class RecordingFolder(BaseModel):
    """One disk."""

    model_config = _STRICT
    path: str = Field(min_length=1, description="a folder on the disk; relative to the data folder")
    max_gb: Gigabytes | None = Field(default=None, description="10^9 bytes that recordings may take here")
    reserve_gb: float = Field(
        default=2, ge=0, le=1_000_000, allow_inf_nan=False, description="10^9 bytes of the disk that are left free"
    )


class Recording(BaseModel):
    """The section `recording` of streams.yaml."""

    model_config = _STRICT
    folders: list[RecordingFolder] = Field(
        default=[], description="one a disk, used by free space; none: recordings/ in the data folder"
    )
    continuous_days: Days = Field(default=30, description="how long footage is kept in which nothing happened")
    event_days: Days = Field(default=90, description="how long footage of events is kept")
    max_gb: Gigabytes | None = Field(default=None, description="10^9 bytes for all recordings together")
    segment_s: float = Field(
        default=60, ge=5, le=3600, allow_inf_nan=False, description="a file ends at the first keyframe after this"
    )
    sync_every_s: float = Field(
        default=5, ge=0.5, le=600, allow_inf_nan=False, description="a power loss costs at most so many seconds"
    )

    @property
    def retention(self) -> Retention:
        """What streams have that say nothing themselves."""
        return Retention(continuous_days=self.continuous_days, event_days=self.event_days)
