"""One stream's units to everybody who wants them: each reader has a bounded queue, nobody waits for anybody.

The GOP since the last keyframe is kept, so that a reader joins at a picture that can be decoded. Units are shared
objects. A reader that is slow loses whole GOPs: the queue always continues at a keyframe after a loss, which is
counted. The kept GOP has a byte budget; a longer GOP is let go (counted) and readers that join then begin at the next
keyframe. A reader whose capacity is below the kept GOP must read it before the next unit comes, else it waits for the
next keyframe too.

Life: made by the link's owner, `publish` from the session's callback, `close` ends all readers. One event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from ingest.access_unit import AccessUnit

GOP_BUDGET_BYTES = 1_500_000
READER_BYTES = 16 << 20


class FanoutClosedError(Exception):
    """The stream is over for good: nothing more comes to this reader."""


class Reader:
    """One consumer. `dropped` counts units lost by its slowness, `gaps` how often that happened."""

    def __init__(self, fanout: Fanout, name: str, capacity_units: int, keyframes_only: bool) -> None:
        self.name = name
        self.dropped = 0
        self.gaps = 0
        self._fanout = fanout
        self._capacity_units = capacity_units
        self._keyframes_only = keyframes_only
        self._queue: deque[AccessUnit] = deque()
        self._queued_bytes = 0
        self._skipping = True  # until a keyframe
        self._skipping_since_drop = False
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    async def get(self) -> AccessUnit:
        """The next unit.

        Raises:
            FanoutClosedError: the stream is over, or this reader has left, and its queue is empty.
        """
        while not self._queue:
            if self._closed:
                raise FanoutClosedError
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._pop()

    async def get_many(self) -> list[AccessUnit]:
        """All queued units, at least one: fewer wake-ups for a reader of much. Raises as `get` does."""
        units = [await self.get(), *self._queue]
        self._queue.clear()
        self._queued_bytes = 0
        return units

    def take_all(self) -> list[AccessUnit]:
        """All queued units, maybe none; for a reader that looks by the clock and is never woken."""
        units = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        return units

    def get_nowait(self) -> AccessUnit | None:
        """The next unit, or None."""
        return self._pop() if self._queue else None

    async def __aiter__(self) -> AsyncIterator[AccessUnit]:
        while True:
            try:
                unit = await self.get()
            except FanoutClosedError:
                return
            yield unit

    @property
    def queued_units(self) -> int:
        """How far behind this reader is."""
        return len(self._queue)

    def close(self) -> None:
        """Leave; what is queued is let go."""
        self._fanout.leave(self)
        self._queue.clear()
        self._queued_bytes = 0
        self.end()

    def end(self) -> None:
        """Nothing more comes (called by the fan-out)."""
        self._closed = True
        self._wake()

    def offer(self, unit: AccessUnit) -> None:
        """Called by the fan-out for every unit."""
        if unit.is_keyframe:
            while self._queue and self._full(unit):
                self._drop_oldest_gop()
            self._skipping = self._skipping_since_drop = False
        elif self._keyframes_only:
            return
        elif self._skipping:
            self.dropped += self._skipping_since_drop
            return
        elif self._full(unit):
            self._skipping = self._skipping_since_drop = True
            self.dropped += 1
            self.gaps += 1
            return
        self._queue.append(unit)
        self._queued_bytes += len(unit.data)
        if self._waiter is not None:
            self._wake()

    def begin(self, gop: list[AccessUnit]) -> None:
        """Called once, by the fan-out, with the kept GOP: shared units in its budget, so capacity does not count."""
        if gop:
            self._queue.extend(gop)
            self._queued_bytes = sum(len(unit.data) for unit in gop)
            self._skipping = False

    def _full(self, unit: AccessUnit) -> bool:
        return len(self._queue) >= self._capacity_units or self._queued_bytes + len(unit.data) > READER_BYTES

    def _drop_oldest_gop(self) -> None:
        """Everything queued before the second keyframe; what was consumed of that GOP already stays consumed."""
        queue = self._queue
        self.gaps += 1
        while queue:
            self._queued_bytes -= len(queue.popleft().data)
            self.dropped += 1
            if queue and queue[0].is_keyframe:
                return

    def _pop(self) -> AccessUnit:
        unit = self._queue.popleft()
        self._queued_bytes -= len(unit.data)
        return unit

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Fanout:
    """`over_budget_gops` counts GOPs that were longer than the byte budget."""

    def __init__(self, name: str = "", gop_budget_bytes: int = GOP_BUDGET_BYTES) -> None:
        self.name = name
        self.over_budget_gops = 0
        self.last_keyframe: AccessUnit | None = None
        self._budget_bytes = gop_budget_bytes
        self._gop: list[AccessUnit] = []
        self._gop_bytes = 0
        self._readers: list[Reader] = []
        self._dropped_by_gone = 0
        self._closed = False

    @property
    def last_gop(self) -> list[AccessUnit]:
        """Units since the last keyframe, that first; empty before one, and while a GOP is over its budget."""
        return list(self._gop)

    @property
    def readers(self) -> int:
        """How many have joined."""
        return len(self._readers)

    @property
    def dropped_units(self) -> int:
        """By all readers that ever were."""
        return self._dropped_by_gone + sum(reader.dropped for reader in self._readers)

    def publish(self, unit: AccessUnit) -> None:
        """Give a unit to everybody. Never waits."""
        if unit.is_keyframe:
            self._gop = [unit]
            self._gop_bytes = len(unit.data)
            self.last_keyframe = unit
        elif self._gop:
            self._gop_bytes += len(unit.data)
            if self._gop_bytes > self._budget_bytes:
                self._gop = []
                self.over_budget_gops += 1
            else:
                self._gop.append(unit)
        for reader in self._readers:
            reader.offer(unit)

    def join(self, name: str, capacity_units: int = 256, *, keyframes_only: bool = False) -> Reader:
        """A new reader; its first unit is the last keyframe, with the kept GOP behind it.

        `capacity_units` bounds its queue (beside `READER_BYTES`). With `keyframes_only` nothing else wakes it.
        """
        reader = Reader(self, name, max(1, capacity_units), keyframes_only)
        if self._closed:
            reader.end()
            return reader
        if keyframes_only:
            if self.last_keyframe is not None:
                reader.offer(self.last_keyframe)
        else:
            reader.begin(self._gop)
        self._readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Called by `Reader.close`."""
        if reader in self._readers:
            self._readers.remove(reader)
            self._dropped_by_gone += reader.dropped

    def forget_gop(self) -> None:
        """The stream was lost: nobody joins at an old picture any more. `last_keyframe` stays, for its wall time."""
        self._gop = []
        self._gop_bytes = 0

    def close(self) -> None:
        """The stream is over for good."""
        self._closed = True
        self.forget_gop()
        for reader in self._readers:
            reader.end()
