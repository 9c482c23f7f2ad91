"""One segment on its way into a file. Made by the event loop; then all but `failed` is its folder's thread's.

    marker, file, beginning -> fragments -> [synced, folder synced, told to the index] -> marker removed

So at any instant a file has a marker, or is told to the index, or both; and what the index says of it is on disk.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from zoneinfo import ZoneInfo

from ingest.access_unit import AccessUnit, StreamName
from ingest.recording.facts import SegmentClosed, SegmentKey
from ingest.recording.files import Files
from ingest.recording.fmp4 import TIMESCALE, Sample, fragment, init_segment, shown_for
from ingest.recording.layout import marker_of, path_of

log = logging.getLogger(__name__)

_LONGEST_SAMPLE = 3600 * TIMESCALE
_USUAL = 3600  # 40 ms, until something is known


class Segment:
    """`append` and `close` raise OSError; after one nothing more is appended, and `close` keeps what was whole."""

    def __init__(self, camera_id: str, stream: StreamName, first: AccessUnit, usual: int = _USUAL) -> None:
        self.camera_id = camera_id
        self.stream: StreamName = stream
        self.format = first.format
        self.first = first
        self.failed: OSError | None = None  # read by the event loop
        self.lost_from_s: float | None = None  # wall time of the first unit that a failure has cost
        self.lost_units = 0
        self.opened = False
        self.closed = False
        self.dirty = False
        self.folder_dirty = False
        self.next_sync_s = 0.0
        self.path = ""
        self.bytes = 0
        self.frames = 0
        self.gaps = 0
        self.end_s = first.wall_s
        self._fd = -1
        self._root = Path()
        self._sha256 = hashlib.sha256()
        self._sequence = 0
        self._shift = -first.dts_90k
        self._end = 0  # where the next sample stands if nothing is missing
        self._usual = usual  # between two frames; for a last one whose successor is not known yet
        self._last_dts: int | None = None
        self._reordered = first.format.reorder_depth > 0

    def open(self, root: Path, files: Files, zone: ZoneInfo) -> None:
        """Marker first, then the file with its beginning; a name that is taken (the clock went back) moves on."""
        self._root = root
        start_us = round(self.first.wall_s * 1_000_000)
        while True:
            self.key = SegmentKey(camera_id=self.camera_id, stream=self.stream, start_us=start_us)
            self.path = path_of(self.key, zone)
            self.marker = root / marker_of(self.key)
            whole = root / self.path
            files.make_folder(whole.parent)
            files.touch(self.marker)
            try:
                self._fd = files.create(whole)
                break
            except FileExistsError:
                files.remove(self.marker)
                start_us += 1
        self.opened = self.folder_dirty = True
        about = {"camera": self.camera_id, "stream": self.stream, "start_us": start_us}
        self._write(files, bytearray(init_segment(self.format, self.first, about)))

    def append(self, files: Files, units: list[AccessUnit], end_dts: int | None) -> int:
        """Write units as one fragment; `end_dts` is the following unit's dts if it is known. Returns bytes written."""
        first = units[0]
        if self._last_dts is not None and 0 < first.dts_90k - self._last_dts < _LONGEST_SAMPLE:
            self._usual = first.dts_90k - self._last_dts
        self._last_dts = units[-1].dts_90k
        decode_time = first.dts_90k + self._shift
        if decode_time < self._end and (first.discontinuity or self._end - decode_time > self._usual):
            self._shift += self._end - decode_time  # the clock jumped within a GOP: go on behind what stands here
            decode_time = self._end
        samples: list[Sample] = []
        lost = 0
        last = len(units) - 1
        for number, unit in enumerate(units):
            following = units[number + 1].dts_90k if number < last else end_dts
            duration = self._usual if following is None else following - unit.dts_90k
            if not 0 < duration < _LONGEST_SAMPLE:
                duration = self._usual
            samples.append(Sample(unit, duration, unit.pts_90k - unit.dts_90k))
            lost += unit.lost_packets
            self._usual = duration
        self._sequence += 1
        written = self._write(files, fragment(self._sequence, decode_time, first.wall_s, samples, lost))
        self.frames += len(samples)
        self.gaps += bool(lost)
        length = sum(sample.duration for sample in samples)
        self._end = decode_time + length
        shown = (
            shown_for([s.duration for s in samples], [s.composition for s in samples]) if self._reordered else length
        )
        self.end_s = max(self.end_s, first.wall_s + shown / TIMESCALE)
        return written

    def _write(self, files: Files, data: bytearray) -> int:
        try:
            files.write(self._fd, data)
        except OSError:
            files.truncate(self._fd, self.bytes)  # a part may have got in
            raise
        self._sha256.update(data)
        self.bytes += len(data)
        self.dirty = True
        return len(data)

    def sync(self, files: Files) -> None:
        """What was written survives a power loss."""
        if not self.opened or self.closed:
            return
        if self.dirty:
            self.dirty = False
            files.sync(self._fd)
        if self.folder_dirty:
            self.folder_dirty = False
            files.sync_folder((self._root / self.path).parent)
            files.sync_folder(self.marker.parent)

    def close(self, files: Files) -> SegmentClosed | None:
        """Synced and released; the statement for the index, or None when nothing was recorded and the file is gone."""
        if not self.opened or self.closed:
            return None
        if self.frames:
            self.sync(files)
        self.closed = True
        files.close(self._fd)
        if not self.frames:
            files.remove(self._root / self.path)
            files.remove(self.marker)
            return None
        return SegmentClosed(
            camera_id=self.camera_id,
            stream=self.stream,
            start_us=self.key.start_us,
            end_us=round(self.end_s * 1_000_000),
            bytes=self.bytes,
            codec=self.format.codec,
            width=self.format.width,
            height=self.format.height,
            frames=self.frames,
            gaps=self.gaps,
            sha256=self._sha256.hexdigest(),
            folder=str(self._root),
            path=self.path,
        )
