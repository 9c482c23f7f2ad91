"""One stream's footage on the event loop: where segments begin and end, and what is dropped when the disk cannot.

Only decides; the bytes are touched by the disk's thread. A segment ends
- at the first keyframe after `segment_s` of media time (the first segment of a run earlier, by the stream's phase),
- where the format changes, at a new session, and at the first keyframe behind a hole or a jump of the clock. A jump
  within a GOP waits for the keyframe, because footage without one in front could not be shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from ingest.access_unit import AccessUnit, StreamFormat, StreamName
from ingest.fanout import Fanout
from ingest.recording.disk import Disk, Job
from ingest.recording.facts import Gap
from ingest.recording.segment import Segment

HOLE_S = 2.0  # media time without a picture that counts as a hole, if it is also three usual intervals
HOLD_S = 0.15  # the newest unit waits for the next one, which tells its duration, but no longer than this
READER_UNITS = 4096

Reason = Literal["stream", "disk_slow", "disk_full", "disk_error"]


class StreamRecorder:
    """`collect` is called every fraction of a second; it takes what the fan-out has and hands it to the disk.

    `choose(self)` names the disk for a new segment, or None while no disk can take it.
    """

    def __init__(
        self,
        camera_id: str,
        stream: StreamName,
        fanout: Fanout,
        *,
        segment_s: float,
        choose: Callable[[StreamRecorder], Disk | None],
        tell_gap: Callable[[Gap], None],
    ) -> None:
        self.camera_id = camera_id
        self.stream: StreamName = stream
        self.disk: Disk | None = None
        self.segments = 0
        self.frames = 0
        self.gaps = 0
        self.dropped_units = 0
        self.bytes = 0
        self.last_wall_s: float | None = None  # of the newest unit that was handed to a disk
        self.last_handed_s = 0.0  # monotonic
        self.segment: Segment | None = None
        self._choose = choose
        self._tell_gap = tell_gap
        self._segment_s = segment_s
        digest = hashlib.blake2b(f"{camera_id}/{stream}".encode(), digest_size=4).digest()
        self.phase = int.from_bytes(digest) / 2**32
        self._reader = fanout.join("recording", READER_UNITS)
        self._held: AccessUnit | None = None
        self._last: AccessUnit | None = None  # the newest unit that was taken, written or not
        self._ends_at = 0  # dts from which a keyframe ends the segment
        self._cut = False  # the next keyframe ends the segment
        self._usual = 3600
        self._gap_from_s: float | None = None
        self._gap_reason: Reason = "stream"
        self._gap_units = 0
        self._was_recording = False

    @property
    def gap_open(self) -> bool:
        """Footage is being dropped now."""
        return self._gap_from_s is not None and self._gap_reason != "stream"

    def collect(self, now_s: float, may_queue: Callable[[Disk], bool], jobs: dict[Disk, list[Job]]) -> None:
        """Take what has come; `jobs` is filled. `may_queue(disk)` says whether its queue is within the budget."""
        units = self._reader.take_all()
        held = self._held
        if held is not None:
            units.insert(0, held)
            self._held = None
        if not units:
            return
        segment = self.segment
        if segment is not None and segment.failed is not None:
            self._failed(jobs, segment)
            segment = None
        run: list[AccessUnit] = []
        for unit in units:
            if segment is None:
                if not unit.is_keyframe or (segment := self._begin(unit, may_queue)) is None:
                    self._drop(unit)
                    self._last = unit
                    continue
            elif unit is not held and self._ends_here(segment, unit):
                last = self._last
                assert last is not None
                whole = not unit.discontinuity and not self._is_hole(last, unit)
                self._submit(jobs, segment, run, unit.dts_90k if whole else None, close=True)
                run = []
                if not whole:
                    self._gap(last.wall_s + self._usual / 90_000, unit.wall_s, "stream")
                self.segment = None
                segment = self._begin(unit, may_queue) if unit.is_keyframe else None
                if segment is None:
                    self._drop(unit)
                    self._last = unit
                    continue
            last = self._last
            if last is not None and unit is not held:
                step = unit.dts_90k - last.dts_90k
                if 0 < step < 90_000 * 60:
                    self._usual = step
                self._cut |= self._is_hole(last, unit)
            run.append(unit)
            self._last = unit
        if segment is None or not run:
            return
        disk = self.disk
        assert disk is not None
        if not may_queue(disk):
            self._give_up(jobs, segment, run, "disk_slow")
            return
        end_dts = None
        if now_s - run[-1].received_s < HOLD_S:
            self._held = run.pop()
            end_dts = self._held.dts_90k
        if run:
            self._submit(jobs, segment, run, end_dts, close=False)
            self.last_wall_s, self.last_handed_s = run[-1].wall_s, now_s

    def finish(self, now_s: float, may_queue: Callable[[Disk], bool], jobs: dict[Disk, list[Job]]) -> None:
        """The last units, the segment's end, and the gap that is still open. The fan-out is left."""
        self.collect(now_s, may_queue, jobs)
        segment, held = self.segment, self._held
        self._held = None
        if segment is not None:
            self._submit(jobs, segment, [held] if held is not None else [], None, close=True)
        if self._gap_from_s is not None and self._last is not None:
            self._close_gap(self._last.wall_s)
        self.segment = None
        self._reader.close()

    # ---- where segments begin and end

    def _begin(self, unit: AccessUnit, may_queue: Callable[[Disk], bool]) -> Segment | None:
        disk = self._choose(self)
        if disk is None or not may_queue(disk):
            return None
        self.disk = disk
        if self._gap_from_s is not None:
            self._close_gap(unit.wall_s)
        segment = self.segment = Segment(self.camera_id, self.stream, unit, self._usual)
        share = 1.0 if self._was_recording else 0.5 + self.phase / 2
        self._ends_at = unit.dts_90k + int(self._segment_s * share * 90_000)
        self._was_recording = True
        self._cut = False
        self.segments += 1
        return segment

    def _ends_here(self, segment: Segment, unit: AccessUnit) -> bool:
        if not (unit.is_keyframe or unit.discontinuity or unit.format is not segment.format):
            return False
        if not _same(unit.format, segment.format):
            return True
        if unit.is_keyframe:
            return (
                self._cut
                or unit.discontinuity
                or unit.dts_90k >= self._ends_at
                or (self._last is not None and self._is_hole(self._last, unit))
            )
        self._cut |= unit.discontinuity
        return False

    def _is_hole(self, last: AccessUnit, unit: AccessUnit) -> bool:
        return unit.dts_90k - last.dts_90k > max(HOLE_S * 90_000, 3 * self._usual)

    def _submit(
        self, jobs: dict[Disk, list[Job]], segment: Segment, run: list[AccessUnit], end_dts: int | None, *, close: bool
    ) -> None:
        assert self.disk is not None
        jobs.setdefault(self.disk, []).append(Job(segment, run, end_dts, close))
        self.frames += len(run)

    # ---- what is lost

    def _give_up(self, jobs: dict[Disk, list[Job]], segment: Segment, run: list[AccessUnit], reason: Reason) -> None:
        """The disk does not keep up: what it has stays, from here to a keyframe with room everything is dropped."""
        self._submit(jobs, segment, [], None, close=True)
        self.segment = None
        self._gap_reason = reason
        for unit in run:
            self._drop(unit)

    def _failed(self, jobs: dict[Disk, list[Job]], segment: Segment) -> None:
        """The disk's threads could not write or flush: the segment ends behind its last whole fragment."""
        self._submit(jobs, segment, [], None, close=True)
        disk = self.disk
        full = disk is not None and disk.broken is None
        self.segment = None
        self._gap_reason = "disk_full" if full else "disk_error"
        self._gap_from_s = segment.lost_from_s
        self._gap_units = segment.lost_units
        self.dropped_units += segment.lost_units

    def _drop(self, unit: AccessUnit) -> None:
        if self._gap_from_s is None:
            if not self._was_recording and self.disk is None and not unit.is_keyframe:
                return  # the run's beginning: nothing was recorded yet that could be missing
            self._gap_from_s = unit.wall_s
        if self.segment is None and self._gap_reason == "stream" and unit.is_keyframe:
            self._gap_reason = "disk_full"
        self._gap_units += 1
        self.dropped_units += 1

    def _close_gap(self, until_s: float) -> None:
        start_s, self._gap_from_s = self._gap_from_s, None
        reason, self._gap_reason = self._gap_reason, "stream"
        units, self._gap_units = self._gap_units, 0
        if start_s is not None:
            self._gap(start_s, until_s, reason, units)

    def _gap(self, start_s: float, until_s: float, reason: Reason, units: int = 0) -> None:
        self.gaps += 1
        if until_s > start_s:
            start, end = (datetime.fromtimestamp(at_s, UTC) for at_s in (start_s, until_s))
            self._tell_gap(
                Gap(
                    camera_id=self.camera_id,
                    stream=self.stream,
                    started_at=start,
                    ended_at=end,
                    reason=reason,
                    dropped_units=units,
                )
            )


def _same(a: StreamFormat, b: StreamFormat) -> bool:
    """Whether one beginning of a file serves both: a deeper reordering alone changes nothing in it."""
    return a is b or (a.codec, a.sps, a.pps, a.vps) == (b.codec, b.sps, b.pps, b.vps)
