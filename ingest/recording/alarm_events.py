"""The recorder's alarms as events: one event from begin to end, closed at the next start after a crash."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from ingest.event import Event, new_id
from ingest.recording.facts import RecordingAlarm

log = logging.getLogger(__name__)

CODES = {"disk_full": "2.3", "retention_short": "2.3", "disk_slow": "6.1", "disk_error": "6.1"}
_PRIORITY = {"disk_full": 1, "disk_error": 1, "disk_slow": 2, "retention_short": 3}


class AlarmEvents:
    """`state` keeps what is open, so that a restart can close it. Called from one thread."""

    def __init__(self, state: Path, epoch: int, emit: Callable[[Event], None], now: Callable[[], datetime]) -> None:
        self._state = state
        self._epoch = epoch
        self._emit = emit
        self._open: dict[str, tuple[UUID, datetime]] = {}
        self._number = 0
        for name, (identity, started_at) in self._read().items():
            kind, _, folder = name.partition(" ")
            self._say(kind, folder, UUID(identity), datetime.fromisoformat(started_at), "closed", now(), ())
        self._write()

    def tell(self, alarm: RecordingAlarm) -> None:
        """Open or close the event of an alarm.

        Raises:
            GridwatchError: the event could not be stored.
        """
        name = f"{alarm.kind} {alarm.folder}"
        if alarm.state == "opened":
            identity, started_at = self._open.setdefault(name, (new_id(), alarm.at))
        elif name in self._open:
            identity, started_at = self._open.pop(name)
        else:
            return
        self._say(
            alarm.kind, alarm.folder, identity, started_at, alarm.state, alarm.at, alarm.cameras, detail=alarm.detail
        )
        self._write()

    def _say(
        self,
        kind: str,
        folder: str,
        identity: UUID,
        started_at: datetime,
        state: str,
        at: datetime,
        cameras: tuple[str, ...],
        detail: str = "",
    ) -> None:
        self._number += 1
        event = Event(
            id=identity,
            epoch=self._epoch,
            number=self._number,
            state="opened" if state == "opened" else "closed",
            code=CODES.get(kind, "6.1"),
            camera_id=None,
            priority=_PRIORITY.get(kind, 2),
            started_at=started_at,
            updated_at=at,
            ended_at=at if state == "closed" else None,
            emitted_at=at,
            attributes={"recording": kind, "folder": folder, "cameras": list(cameras), "detail": detail},
        )
        self._emit(event)

    def _read(self) -> dict[str, tuple[str, str]]:
        try:
            body = json.loads(self._state.read_bytes())
            return {str(name): (str(found[0]), str(found[1])) for name, found in body.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, AttributeError) as error:
            log.error("open recording alarms cannot be read", extra={"file": str(self._state), "why": str(error)})
            return {}

    def _write(self) -> None:
        body = {name: (str(identity), at.isoformat()) for name, (identity, at) in self._open.items()}
        temporary = self._state.with_suffix(".tmp")
        temporary.write_text(json.dumps(body))
        temporary.replace(self._state)
