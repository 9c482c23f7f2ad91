"""One timer for everything that is sent: a wheel of 5 ms slots, so that 128 cameras cost one wake-up a slot.

What falls into a slot runs in the order in which it was put there; what is late runs at once. The wheel sleeps while
nothing waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

SLOT_S: Final = 0.005
_SLOTS: Final = 1024  # 5.1 s; what is due later goes round again

_log = logging.getLogger(__name__)


class Pacer:
    """`at` runs calls at their time, to the slot. Belongs to one event loop; `close` forgets what waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel: list[list[tuple[float, Callable[[Any], None], Any]]] = [[] for _ in range(_SLOTS)]
        self._waiting = 0
        self._next_slot = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def at(self, due_s: float, call: Callable[[Any], None], argument: Any) -> None:
        """Run `call(argument)` at `due_s` on the loop's clock."""
        if self._closed:
            return
        slot = int(due_s / SLOT_S)
        if not self._waiting and self._timer is None:
            self._next_slot = int(self._loop.time() / SLOT_S)
            self._arm()
        slot = min(max(slot, self._next_slot), self._next_slot + _SLOTS - 1)
        self._wheel[slot % _SLOTS].append((due_s, call, argument))
        self._waiting += 1

    def close(self) -> None:
        """Drop what waits and stop the timer."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = self._loop.call_at((self._next_slot + 1) * SLOT_S, self._turn)

    def _turn(self) -> None:
        now_slot = int(self._loop.time() / SLOT_S)
        first = max(self._next_slot, now_slot - _SLOTS + 1)
        for slot in range(first, now_slot + 1):
            self._next_slot = slot + 1
            entries = self._wheel[slot % _SLOTS]
            if not entries:
                continue
            self._wheel[slot % _SLOTS] = []
            self._waiting -= len(entries)
            for due_s, call, argument in entries:
                if due_s >= (slot + 1) * SLOT_S + _SLOTS * SLOT_S / 2:
                    self.at(due_s, call, argument)
                    continue
                try:
                    call(argument)
                except Exception:
                    _log.exception("a simulated camera failed while sending")
        self._next_slot = max(self._next_slot, now_slot + 1)
        if self._waiting and not self._closed:
            self._arm()
        else:
            self._timer = None
