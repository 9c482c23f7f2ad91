"""What the web application is given: small seams that the process around it fills. It owns none of them.

Life cycle: the caller opens the pool, builds one `AppState`, gives it to `create_app` and closes the pool after the
server has stopped. Every callable here answers at once from memory; nothing may wait for a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from command.settings import Settings
from command.store.pool import Pool
from ingest.clock import Clock, SystemClock
from ingest.health import StreamHealth


class Pictures(Protocol):
    """Where the last keyframe pictures are; `analytics.last_pictures.LastPictures` is one."""

    def get(self, camera_id: str) -> tuple[bytes, datetime] | None:
        """(JPEG, when it was taken), or None while there is none. Reads a file: called in a thread."""
        ...

    def taken_at(self, camera_id: str) -> datetime | None:
        """When the newest picture was taken, without reading it."""
        ...


class EvidenceFiles(Protocol):
    """Content-addressed evidence; `analytics.evidence.EvidenceStore` is one."""

    def path(self, sha256: str) -> Path:
        """Where the file with this checksum is or would be; called with 64 lower-case hex digits only."""
        ...


@dataclass(frozen=True)
class PartHealth:
    """One running part (broker, a worker, media) as its supervisor sees it."""

    name: str
    ok: bool
    reason_code: str | None = None
    reason_facts: dict[str, str] = field(default_factory=dict)
    is_vital: bool = True  # False: worth a line in /healthz, but the chain runs without it


@dataclass(frozen=True)
class SpoolDepth:
    """What waits on disk for the database."""

    name: str
    rows: int
    bytes: int


@dataclass
class AppState:
    """Everything that the routes reach. `conninfo` is for the one listening connection beside the pool."""

    settings: Settings
    conninfo: str
    pool: Pool
    health: Callable[[], Sequence[StreamHealth]]
    pictures: Pictures
    evidence: EvidenceFiles
    media_socket: Path
    parts: Callable[[], Sequence[PartHealth]] = tuple
    spools: Callable[[], Sequence[SpoolDepth]] = tuple
    clock: Clock = field(default_factory=SystemClock)
