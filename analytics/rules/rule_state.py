"""What every kind of rule is told and what it offers: a state machine for each rule of each camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from analytics.detector import Detection
from ingest.event import Event, Evidence

ClosedBecause = Literal["cleared", "hours_ended", "camera_lost", "reconfigured", "stopped", "interrupted"]
"""In a closed event's attributes as `closed_because`.

`reconfigured`: the rule, its zone or the camera was changed or taken away; `interrupted`: the worker died while the
event was open.
"""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look found."""

    detections: Sequence[Detection]
    at: datetime  # when the picture was taken, aware
    media_s: float  # the camera's own time, never backwards: all durations are told by it
    save_picture: Callable[[], Evidence | None]  # on disk on return; None when the disk refused
    is_whole: bool = True  # False: parts of the picture were lost; it may prolong an event, not open or clear one


class RuleState(Protocol):
    """One rule of one camera. Not thread-safe; never more than one event open at a time."""

    @property
    def is_busy(self) -> bool:
        """An event is open or about to be: this camera deserves looks before others."""
        ...

    def is_awake(self, at: datetime) -> bool:
        """Within the rule's active hours."""
        ...

    def observe(self, sighting: Sighting) -> list[Event]:
        """The statements that follow from a look, in order."""
        ...

    def tick(self, at: datetime) -> list[Event]:
        """The statements that follow from time alone; to be called every second or so."""
        ...

    def close(self, because: ClosedBecause, at: datetime) -> list[Event]:
        """Close what is open."""
        ...
