"""The start's look at what was not closed: a marker each, however many million segments there are.

A file whose process was killed is whole up to its last fragment; the torn rest is cut off, the file synced and told to
the index, the marker removed. A death in here changes nothing: the marker is still there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from zoneinfo import ZoneInfo

from ingest.recording.facts import SegmentClosed, SegmentKey
from ingest.recording.files import Files
from ingest.recording.fmp4_read import BadRecordingError, Recording, scan
from ingest.recording.layout import OPEN, key_of_marker, path_of

log = logging.getLogger(__name__)


def not_closed(root: Path) -> list[tuple[Path, SegmentKey]]:
    """Marker and key of every segment that is open or was left open."""
    folder = root / OPEN
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return []
    return [(folder / name, key) for name in names if (key := key_of_marker(name)) is not None]


def close_left_open(
    root: Path, zone: ZoneInfo, tell: Callable[[SegmentClosed], None], *, files: Files, but: Collection[str] = ()
) -> int:
    """Close what an earlier process left open; paths in `but` are this one's. Returns how many were told.

    Raises:
        OSError: the disk does not answer properly; what is left keeps its marker.
        GridwatchError: `tell` could not store; likewise.
    """
    told = 0
    for marker, key in not_closed(root):
        path = path_of(key, zone)
        if path in but or files.in_use(root / path):
            continue
        try:
            fact = close_file(root, path, key, files=files)
        except FileNotFoundError:
            fact = None  # the marker came first and the file never, or it is deleted already
        if fact is not None:
            tell(fact)
            told += 1
        files.remove(marker)
    return told


def close_file(root: Path, path: str, key: SegmentKey, *, files: Files) -> SegmentClosed | None:
    """Cut the torn end off, sync, and say what the file holds; None when it held nothing and is gone.

    Raises:
        FileNotFoundError: there is no such file.
    """
    whole = root / path
    with whole.open("r+b") as file:
        try:
            found: Recording | None = scan(file)
        except BadRecordingError:
            found = None
        if found is not None and found.frames:
            if found.torn_bytes:
                log.info("torn end cut off", extra={"segment": path, "cut_bytes": found.torn_bytes})
                file.truncate(found.whole_bytes)
            files.sync(file.fileno())
    if found is None or not found.frames:
        files.remove(whole)
        return None
    files.sync_folder(whole.parent)
    return fact_of(root, path, key, found, recovered=True)


def fact_of(root: Path, path: str, key: SegmentKey, found: Recording, *, recovered: bool) -> SegmentClosed:
    """The index's statement about a file that was read."""
    return SegmentClosed(
        **key.model_dump(include={"camera_id", "stream", "start_us"}),
        end_us=round(found.end_s * 1_000_000),
        bytes=found.whole_bytes,
        codec=found.codec,
        width=found.width,
        height=found.height,
        frames=found.frames,
        gaps=found.gaps,
        sha256=found.sha256,
        folder=str(root),
        path=path,
        recovered=recovered,
    )
