"""What an ingest worker tells of itself, once a second, in a file that the API and the supervisor read.

A file instead of a socket: nobody waits for anybody, a dead worker's last word stays readable, and the file's age is
the heartbeat. It is replaced whole, so a reader never sees half a report.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ingest.health import CameraState, StreamHealth
from ingest.machine import Limit

log = logging.getLogger(__name__)

STALE_AFTER_S = 5.0  # a report older than this says nothing about its cameras any more


class WorkerReport(BaseModel):
    """One worker's streams and its analysis figures (free form: counters by name, by camera)."""

    model_config = ConfigDict(frozen=True)
    worker: str
    pid: int
    generation: int = 0  # of the accepted town that it works by
    streams: tuple[StreamHealth, ...]
    analysis: dict[str, Any] = {}
    limits: tuple[dict[str, Any], ...] = ()  # `ingest.machine.Limit.as_json` of each


class WorkerReports:
    """All workers' reports of a folder; a file is parsed again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[int, WorkerReport]] = {}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("worker-*.json"))

    def _read(self, path: Path) -> tuple[float, WorkerReport] | None:
        try:
            status = path.stat()
            known = self._known.get(path)
            if known is None or known[0] != status.st_mtime_ns:
                known = (status.st_mtime_ns, WorkerReport.model_validate_json(path.read_bytes()))
                self._known[path] = known
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            log.warning("a worker's report cannot be read", extra={"file": path.name, "why": type(error).__name__})
            return None
        return max(0.0, time.time() - status.st_mtime), known[1]

    def reports(self) -> list[tuple[float, WorkerReport]]:
        """(age in seconds, report) of each worker that has written one."""
        return [found for path in self._files() if (found := self._read(path)) is not None]

    def health(self) -> list[StreamHealth]:
        """Every stream of every worker; a stream whose worker is silent is `waiting`, with that as the reason."""
        streams: list[StreamHealth] = []
        for age_s, report in self.reports():
            if age_s <= STALE_AFTER_S:
                streams += report.streams
                continue
            facts = {"worker": report.worker, "silent_s": f"{age_s:.0f}"}
            gone = {"state": CameraState.WAITING, "reason_code": "worker.silent", "reason_facts": facts}
            streams += [stream.model_copy(update=gone) for stream in report.streams]
        return streams

    def analysis(self) -> dict[str, Any]:
        """Worker name to its analysis figures, silent workers left out."""
        return {report.worker: report.analysis for age_s, report in self.reports() if age_s <= STALE_AFTER_S}

    def limits(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """Worker name to what the machine allows it, silent workers left out."""
        return {report.worker: report.limits for age_s, report in self.reports() if age_s <= STALE_AFTER_S}


def report_body(
    worker: str,
    streams: Sequence[StreamHealth],
    analysis: dict[str, Any],
    limits: Sequence[Limit] = (),
    generation: int = 0,
) -> str:
    """The JSON text of a report."""
    body = {
        "worker": worker,
        "pid": os.getpid(),
        "generation": generation,
        "streams": [stream.model_dump(mode="json") for stream in streams],
        "analysis": analysis,
        "limits": [limit.as_json() for limit in limits],
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
