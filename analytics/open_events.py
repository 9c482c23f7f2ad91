"""The events that are open now, kept in a small file: what a worker that died left open is closed by the next one.

Life cycle: read at start (`left_open`), then written before an event is told as opened and after it was told as closed.
So a death in between can only make an event be closed twice, never leave it open for ever.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from analytics.evidence import write_durably
from ingest.event import Event

log = logging.getLogger(__name__)
_events = TypeAdapter(list[Event])


class OpenEvents:
    """The last statement of each open event of one worker; not thread-safe, the caller serialises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[UUID, Event] = {}

    def left_open(self, epoch: int, now: datetime) -> list[Event]:
        """Closing statements for what the file still holds open; they stay in the file until `remove`d.

        An unreadable file is put aside with a log line: its events are lost to this worker, never its start.
        """
        try:
            self._open = {event.id: event for event in _events.validate_json(self._path.read_bytes())}
        except FileNotFoundError:
            return []
        except ValidationError as error:
            aside = self._path.with_suffix(".unreadable")
            self._path.replace(aside)
            log.error("the file of open events was unreadable", extra={"put_aside": str(aside), "why": str(error)})
            return []
        return [close_interrupted(event, epoch, now) for event in self._open.values()]

    def put(self, event: Event) -> None:
        """Remember `event` as open, durably. Raises OSError when it cannot be written."""
        self._open[event.id] = event
        self._write()

    def remove(self, event_id: UUID) -> None:
        """Forget an event after its closing was told. Raises OSError when that cannot be written."""
        if self._open.pop(event_id, None) is not None:
            self._write()

    def __len__(self) -> int:
        return len(self._open)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, _events.dump_json(list(self._open.values())))


def adopt(heir: Path, orphans: list[Path]) -> int:
    """Put the open events of workers that will not come again into another one's file, before that one starts.

    Returns how many. An orphan is removed only when its events are safe with the heir; an unreadable one is put aside.
    """
    found: dict[UUID, Event] = {}
    for path in [heir, *orphans]:
        try:
            found.update((event.id, event) for event in _events.validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue
        except ValidationError as error:
            if path != heir:  # the heir says so itself, at its start
                path.replace(path.with_suffix(".unreadable"))
                log.error("a file of open events was unreadable", extra={"file": path.name, "why": str(error)})
                continue
            return 0
    if orphans:
        write_durably(heir, _events.dump_json(list(found.values())))
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(found)


def close_interrupted(event: Event, epoch: int, now: datetime) -> Event:
    """The closing statement of an event whose worker died: it ended when it was last stated."""
    return event.model_copy(
        update={
            "epoch": max(epoch, event.epoch + 1),  # another worker's count may be ahead of ours
            "number": 1,
            "state": "closed",
            "ended_at": event.updated_at,
            "updated_at": max(now, event.updated_at),
            "attributes": {**event.attributes, "closed_because": "interrupted"},
        }
    )
