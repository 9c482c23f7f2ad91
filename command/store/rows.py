"""What the store gives and takes: pages of rows, and an event as it was stored."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection

from ingest.errors import GridwatchError
from ingest.event import Event

Row = dict[str, Any]
GridMatch = Literal["inside", "nearest", "none"]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with the place that the store found for it. `lon`/`lat` are the event's own, else its camera's."""

    event: Event
    lon: float | None
    lat: float | None
    grid_id: str | None
    grid_match: GridMatch
    village: str | None

    @property
    def id(self) -> UUID:
        """The event's id."""
        return self.event.id

    @property
    def started_at(self) -> datetime:
        """Fixed for the event's life."""
        return self.event.started_at

    @property
    def code(self) -> str:
        """Alarm method and type."""
        return self.event.code

    @property
    def camera_id(self) -> str | None:
        """The camera that saw it."""
        return self.event.camera_id

    @property
    def zone_id(self) -> str | None:
        """The camera's zone that it happened in."""
        return self.event.zone_id


Decide = Callable[[AsyncConnection[Any], Sequence[StoredEvent]], Awaitable[None]]
"""Cases and tasks for events that are new, inside the transaction that stores them. Called again after a rollback; what
it raises that is no fault of the database costs the event its case (a dead letter says so), never its row."""


@dataclass(frozen=True)
class Page:
    """One page of a list; `next` is the cursor of the page after it, None at the end."""

    items: list[Row]
    next: str | None


def cursor_of(at: datetime, row_id: UUID) -> str:
    """The place after this row in a list ordered by time and id, newest first."""
    return base64.urlsafe_b64encode(f"{at.isoformat()} {row_id}".encode()).decode().rstrip("=")


def place_of(cursor: str) -> tuple[datetime, UUID]:
    """The inverse of `cursor_of`.

    Raises:
        GridwatchError: `store.bad_cursor`; it was cut off or made up.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        at, _, row_id = text.rpartition(" ")
        found = datetime.fromisoformat(at), UUID(row_id)
    except (binascii.Error, ValueError) as error:
        raise GridwatchError("store.bad_cursor", cursor=cursor[:80]) from error
    if found[0].tzinfo is None:
        raise GridwatchError("store.bad_cursor", cursor=cursor[:80])
    return found
