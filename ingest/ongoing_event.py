"""An event in the making: opened, stated again, closed, with its numbers right. For matters that last.

Life cycle: one for each kind of matter of a camera; holds at most one open event at a time and states it anew for each
recurrence. Not thread-safe; what it answers is told by others.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ingest.event import Event, new_id


class OngoingEvent:
    """`epoch` is that of the worker that owns the event."""

    def __init__(self, code: str, camera_id: str, epoch: int, priority: int = 3) -> None:
        self._code = code
        self._camera_id = camera_id
        self._epoch = epoch
        self._priority = priority
        self.event: Event | None = None

    def open(self, started_at: datetime, at: datetime, attributes: dict[str, Any], **more: Any) -> Event:
        """Begin; `more` are further fields of `Event`. The wall clock may have been set back: it never starts late."""
        assert self.event is None
        self.event = Event(
            id=new_id(),
            epoch=self._epoch,
            number=1,
            state="opened",
            code=self._code,
            camera_id=self._camera_id,
            priority=self._priority,
            started_at=min(started_at, at),
            updated_at=at,
            attributes=attributes,
            **more,
        )
        return self.event

    def update(self, at: datetime, attributes: dict[str, Any]) -> Event:
        """State it again, with newer attributes on top."""
        assert self.event is not None
        self.event = self._next(self.event, at, state="updated", attributes={**self.event.attributes, **attributes})
        return self.event

    def close(self, because: str, at: datetime, ended_at: datetime | None = None) -> Event:
        """End it as of `ended_at` (default: now), never before it began; attributes get the reason and the duration."""
        event, self.event = self.event, None
        assert event is not None
        at = max(at, event.updated_at)
        ended_at = max(event.started_at, min(ended_at or at, at))
        attributes = {
            **event.attributes,
            "closed_because": because,
            "duration_s": round((ended_at - event.started_at).total_seconds(), 1),
        }
        return self._next(event, at, state="closed", ended_at=ended_at, attributes=attributes)

    @staticmethod
    def _next(event: Event, at: datetime, **changes: Any) -> Event:
        changes |= {"number": event.number + 1, "updated_at": max(at, event.updated_at)}
        return event.model_copy(update=changes)
