"""Where recordings lie below a recording folder. Pure names, no I/O.

    <folder>/<camera>/<YYYY-MM-DD>/<YYYYMMDDTHHMMSS.ffffffZ>-<main|sub>.mp4     the footage
    <folder>/<camera>/<YYYY-MM-DD>/keep.list                                     what is kept longer (see retention)
    <folder>/.gridwatch/open/<camera>~<stream>~<start>                           empty: this segment is not closed yet
    <folder>/.gridwatch/usage.json                                               bytes by camera, stream and day
    <folder>/.gridwatch/closed.list                                              closed since usage.json, a line each
    <folder>/.gridwatch/keeper.lock                                              held by the process that deletes here

The day is the town's, the time in the name is UTC, of the first frame. The name holds the whole key.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import cast
from zoneinfo import ZoneInfo

from ingest.access_unit import StreamName
from ingest.recording.facts import SegmentKey

OWN = ".gridwatch"
OPEN = f"{OWN}/open"
USAGE = f"{OWN}/usage.json"
CLOSED = f"{OWN}/closed.list"
KEEPER_LOCK = f"{OWN}/keeper.lock"
KEEP = "keep.list"
SUFFIX = ".mp4"

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-(main|sub)\.mp4")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STAMP = "%Y%m%dT%H%M%S.%fZ"


def to_us(at: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The inverse of `to_us`, UTC."""
    return _EPOCH + timedelta(microseconds=us)


def day_of(us: int, zone: ZoneInfo) -> str:
    """The town's date at a moment."""
    return from_us(us).astimezone(zone).strftime("%Y-%m-%d")


def is_day(name: str) -> bool:
    """Whether a folder's name is a date."""
    return _DAY.fullmatch(name) is not None


def path_of(key: SegmentKey, zone: ZoneInfo) -> str:
    """The segment's path within the recording folder."""
    stamp = from_us(key.start_us).strftime(_STAMP)
    return f"{key.camera_id}/{day_of(key.start_us, zone)}/{stamp}-{key.stream}{SUFFIX}"


def key_of(path: str) -> SegmentKey | None:
    """The segment that a path (within the recording folder) names, or None for anything else."""
    parts = PurePosixPath(path).parts
    name = _NAME.fullmatch(parts[-1]) if len(parts) == 3 else None
    if name is None or not is_day(parts[1]):
        return None
    try:
        at = datetime.strptime(name[1], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return SegmentKey(camera_id=parts[0], stream=cast(StreamName, name[2]), start_us=to_us(at))


def marker_of(key: SegmentKey) -> str:
    """The path of the marker of a segment that is not closed."""
    return f"{OPEN}/{key.camera_id}~{key.stream}~{key.start_us}"


def key_of_marker(name: str) -> SegmentKey | None:
    """The segment that a marker's file name stands for."""
    camera_id, _, rest = name.partition("~")
    stream, _, start = rest.partition("~")
    if not camera_id or stream not in ("main", "sub") or not start.isdigit():
        return None
    return SegmentKey(camera_id=camera_id, stream=cast(StreamName, stream), start_us=int(start))
