"""One live stream for all its viewers: opened by the first, closed by the last, packetised once.

Life of a source: `LiveSources.acquire` starts it (or counts one more viewer), it reads access units from the ingest
worker and reopens for as long as somebody watches, `release` of the last viewer ends it. A viewer's `LiveReader` starts
at the newest keyframe; one that falls behind loses whole GOPs, counted, and never slows the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from command.wall.packetise import PackedUnit, packetise
from command.wall.timeline import CATCH_UP_STEP, Timeline
from ingest.access_unit import AccessUnit, StreamFormat
from ingest.clock import Clock
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

OpenUnits = Callable[[str, str], AbstractAsyncContextManager[AsyncIterator[AccessUnit]]]

READER_MAX_UNITS = 256
READER_MAX_BYTES = 16_000_000
BURST_MAX_UNITS = 320
BURST_MAX_BYTES = 6_000_000  # a longer GOP is not replayed: its keyframe shows until the next one comes
_REOPEN_FIRST_S, _REOPEN_CAP_S = 0.2, 3.0
LIVE_WITHIN_S = 5.0  # a stream whose newest picture is older is not live (the links' least time to "stalled")
REPLAY_WITHIN_S = 1.0  # browsers ask for a keyframe after about 3 s without a picture
_REPLAY_ROOM = 2_700  # ticks that are surely free before the next live frame (30 ms)


class LiveReader:
    """One viewer's place in a stream: a bounded queue that starts at a keyframe and loses whole GOPs."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._queue: deque[tuple[PackedUnit, int]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._needs_keyframe = True
        self._losing = False  # between an overflow and the next keyframe
        self._last_timestamp = -(1 << 62)
        self._error: GridwatchError | None = None
        self.dropped_units = 0

    async def get(self) -> tuple[PackedUnit, int]:
        """The next unit and its timestamp (90 kHz, growing).

        Raises:
            GridwatchError: the stream became one that cannot be passed on (H.265, B-frames).
        """
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        unit, timestamp = self._queue.popleft()
        self._queued_bytes -= unit.size_bytes
        return unit, timestamp

    @property
    def behind(self) -> bool:
        """Whether more units are waiting."""
        return bool(self._queue)

    def restart(self, within_s: float = LIVE_WITHIN_S) -> None:
        """Continue at the newest keyframe now instead of waiting for the camera's next one.

        Used at the beginning and when a viewer's decoder has lost its references: a camera cannot be asked for a
        keyframe, but the cached GOP holds one. Frames up to the live one get a spacing that shows them in an instant.
        Nothing happens when the newest picture is older than `within_s`: browsers ask for keyframes also when a camera
        stands still, and a replay would show the past as now, again and again.
        """
        if self._source.age_s > within_s:
            return
        burst = self._source.gop
        if not burst:
            return
        self._drop_queue()
        first = self._source.newest_timestamp - CATCH_UP_STEP * (len(burst) - 1)
        step = CATCH_UP_STEP
        if first <= self._last_timestamp:
            first = self._last_timestamp + 1
            step = max(1, min(CATCH_UP_STEP, _REPLAY_ROOM // len(burst)))
        for number, unit in enumerate(burst):
            self._put(unit, first + step * number)
        self._needs_keyframe = not self._source.gop_is_whole

    def offer(self, unit: PackedUnit) -> None:
        """Called by the source for every unit."""
        if unit.is_keyframe:
            self._needs_keyframe = self._losing = False
        elif self._needs_keyframe:
            self.dropped_units += self._losing
            return
        if len(self._queue) >= READER_MAX_UNITS + BURST_MAX_UNITS or self._queued_bytes > READER_MAX_BYTES:
            self._drop_queue()
            if not unit.is_keyframe:
                self._needs_keyframe = self._losing = True
                self.dropped_units += 1
                return
        self._put(unit, max(unit.timestamp, self._last_timestamp + 1))

    def fail(self, error: GridwatchError) -> None:
        """End this reader; `get` raises `error` once its queue is empty."""
        self._error = error
        self._wake.set()

    def _put(self, unit: PackedUnit, timestamp: int) -> None:
        self._queue.append((unit, timestamp))
        self._queued_bytes += unit.size_bytes
        self._last_timestamp = timestamp
        self._wake.set()

    def _drop_queue(self) -> None:
        self.dropped_units += len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0


class LiveSource:
    """The shared stream of one (camera, stream). Owned by `LiveSources`."""

    def __init__(self, camera: str, stream: str, open_units: OpenUnits, clock: Clock) -> None:
        self.camera = camera
        self.stream = stream
        self.viewers = 0
        self.units = 0
        self.reopened = 0
        self.dropped_units = 0
        self.gop: list[PackedUnit] = []  # from the newest keyframe on, or that alone
        self.gop_is_whole = True
        self._gop_bytes = 0
        self._open_units = open_units
        self._clock = clock
        self._timeline = Timeline()
        self._format: StreamFormat | None = None
        self._newest_s = float("-inf")  # when the newest unit was received, monotonic
        self._changed = asyncio.Event()
        self._error: GridwatchError | None = None
        self._readers: set[LiveReader] = set()
        self._task = asyncio.create_task(self._run(), name=f"live {camera}/{stream}")

    async def playable_format(self, within_s: float) -> StreamFormat:
        """Wait for a picture that is live and return its format.

        Raises:
            GridwatchError: `wall.not_live` after `within_s`, the worker's own error, or why WebRTC cannot carry it.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._error is None and self.age_s > LIVE_WITHIN_S:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise GridwatchError("wall.not_live", camera=self.camera, stream=self.stream) from None
        if self._error is not None:
            raise self._error
        assert self._format is not None
        return self._format

    @property
    def age_s(self) -> float:
        """Seconds since the newest unit came from the camera; infinite before the first."""
        return self._clock.monotonic_s() - self._newest_s

    @property
    def newest_timestamp(self) -> int:
        """Of the newest unit; 90 kHz on this source's timeline."""
        return self._timeline.last

    def join(self) -> LiveReader:
        """A new reader at the newest keyframe (or waiting for the first one)."""
        reader = LiveReader(self)
        reader.restart()
        self._readers.add(reader)
        return reader

    def leave(self, reader: LiveReader) -> None:
        """Forget a reader; its losses stay counted."""
        if reader in self._readers:
            self._readers.remove(reader)
            self.dropped_units += reader.dropped_units

    async def close(self) -> None:
        """Close the way to the worker."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        wait_s = _REOPEN_FIRST_S
        while True:
            began_s = self._clock.monotonic_s()
            try:
                async with self._open_units(self.camera, self.stream) as units:
                    self.gop = []
                    async for unit in units:
                        self._take(unit)
                error = GridwatchError("wall.not_live", camera=self.camera, stream=self.stream)
            except GridwatchError as failed:
                error = failed
            except OSError as failed:
                error = GridwatchError("wall.worker_away", camera=self.camera, why=type(failed).__name__)
            except Exception:
                # A unit that this code cannot digest must not leave viewers with a source that is silently dead.
                log.exception("live source failed", extra={"camera": self.camera, "stream": self.stream})
                error = GridwatchError("wall.not_live", camera=self.camera, stream=self.stream)
            log.info("live source ended", extra={"camera": self.camera, "stream": self.stream, "code": error.code})
            self._set_error(error)
            if self._clock.monotonic_s() - began_s > _REOPEN_CAP_S:
                wait_s = _REOPEN_FIRST_S
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _REOPEN_CAP_S)
            self.reopened += 1

    def _take(self, unit: AccessUnit) -> None:
        if not self.gop and not unit.is_keyframe:
            return
        if unit.format is not self._format:
            self._format = unit.format
            unplayable = why_unplayable(unit.format, self.camera, self.stream)
            self._set_error(unplayable)
            if unplayable is not None:
                for reader in self._readers:
                    reader.fail(unplayable)
        if self._error is not None:
            if self._error.code in UNPLAYABLE_CODES:
                return
            self._set_error(None)
        packed = packetise(unit, self._timeline.stamp(unit, self._clock.monotonic_s()))
        if packed.is_keyframe:
            self.gop, self.gop_is_whole, self._gop_bytes = [packed], True, packed.size_bytes
        elif self.gop_is_whole:
            self._gop_bytes += packed.size_bytes
            if len(self.gop) < BURST_MAX_UNITS and self._gop_bytes <= BURST_MAX_BYTES:
                self.gop.append(packed)
            else:
                self.gop, self.gop_is_whole = self.gop[:1], False
        self.units += 1
        self._newest_s = unit.received_s
        self._changed.set()
        for reader in self._readers:
            reader.offer(packed)

    def _set_error(self, error: GridwatchError | None) -> None:
        self._error = error
        self._changed.set()


UNPLAYABLE_CODES = frozenset({"wall.h265", "wall.b_frames"})


def why_unplayable(stream_format: StreamFormat, camera: str, stream: str) -> GridwatchError | None:
    """Why WebRTC cannot carry this stream as it is, or None. WebRTC has no display order: B-frames would flicker."""
    if stream_format.codec != "h264":
        return GridwatchError("wall.h265", camera=camera, stream=stream)
    if stream_format.reorder_depth > 0:
        return GridwatchError("wall.b_frames", camera=camera, stream=stream)
    return None


class LiveSources:
    """All open sources of this process, counted by their viewers."""

    def __init__(self, open_units: OpenUnits, clock: Clock) -> None:
        self._open_units = open_units
        self._clock = clock
        self._sources: dict[tuple[str, str], LiveSource] = {}
        self._lingering: set[asyncio.Task[None]] = set()

    def acquire(self, camera: str, stream: str) -> LiveSource:
        """The source of a stream, with one viewer more; give it back with `release`."""
        key = camera, stream
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = LiveSource(camera, stream, self._open_units, self._clock)
        source.viewers += 1
        return source

    async def release(self, source: LiveSource) -> None:
        """One viewer less; the last one closes the source."""
        source.viewers -= 1
        if source.viewers == 0 and self._sources.pop((source.camera, source.stream), None) is not None:
            await source.close()

    def release_later(self, source: LiveSource, after_s: float) -> None:
        """Give a viewer's share back after a while: its camera may have GOPs longer than one attempt waits."""
        task = asyncio.create_task(self._release_later(source, after_s), name=f"linger {source.camera}")
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def _release_later(self, source: LiveSource, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.release(source)

    async def close(self) -> None:
        """Close what still lingers; the sessions have given back theirs."""
        for task in self._lingering:
            task.cancel()
        sources = list(self._sources.values())
        self._sources.clear()
        await asyncio.gather(*(source.close() for source in sources))

    def stats(self) -> list[dict[str, object]]:
        """Facts for `/stats`."""
        return [
            {
                "camera": source.camera,
                "stream": source.stream,
                "viewers": source.viewers,
                "units": source.units,
                "reopened": source.reopened,
                "dropped_units": source.dropped_units,
            }
            for source in self._sources.values()
        ]
