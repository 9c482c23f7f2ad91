"""RTP over UDP put in order: a small window waits for late packets, then lets the gap pass. Pure.

In order means one comparison and no copy. A gap is given up when `WINDOW` packets wait behind it or the oldest has
waited `WAIT_S`; the depacketiser then counts exactly what is missing. A packet older than the next one expected is a
duplicate or too late; `RESTART_RUN` of them in ascending order are a restarted sender.
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW = 64
WAIT_S = 0.1
RESTART_RUN = 3
_FAR = 3000


class ReorderWindow:
    """`deliver(packet, 0, len(packet))` is called in sequence order."""

    def __init__(self, deliver: Callable[[bytes, int, int], None]) -> None:
        self.late_packets = 0  # duplicates, or after their gap was given up
        self.reordered_packets = 0
        self._deliver = deliver
        self._next = -1
        self._held: dict[int, bytes] = {}
        self._held_since_s = 0.0
        self._old_run = 0
        self._old_last = -1

    def add(self, packet: bytes, now_s: float) -> None:
        """One datagram as it came."""
        size = len(packet)
        if size < 12:
            self._deliver(packet, 0, size)  # counted there as bad
            return
        sequence = packet[2] << 8 | packet[3]
        if sequence == self._next or self._next < 0:
            self._next = (sequence + 1) & 0xFFFF
            self._old_run = 0  # the sender goes on: what was old were duplicates, not a new beginning
            self._deliver(packet, 0, size)
            if self._held:
                self._release_run(now_s)
            return
        ahead = (sequence - self._next) & 0xFFFF
        if ahead >= 0x8000 or ahead >= _FAR:
            self._old(packet, sequence, now_s)
            return
        self._old_run = 0
        if sequence in self._held:
            self.late_packets += 1
            return
        if not self._held:
            self._held_since_s = now_s
        self._held[sequence] = packet
        if len(self._held) >= WINDOW:
            self._give_up(now_s)

    def tick(self, now_s: float) -> None:
        """Called every `WAIT_S` or so: gaps that have lasted too long are given up."""
        if self._held and now_s - self._held_since_s >= WAIT_S:
            self._give_up(now_s)

    def _old(self, packet: bytes, sequence: int, now_s: float) -> None:
        self._old_run = self._old_run + 1 if sequence == (self._old_last + 1) & 0xFFFF else 1
        self._old_last = sequence
        if self._old_run < RESTART_RUN:
            self.late_packets += 1
            return
        while self._held:
            self._give_up(now_s)
        self._old_run = 0
        self._next = (sequence + 1) & 0xFFFF
        self._deliver(packet, 0, len(packet))

    def _give_up(self, now_s: float) -> None:
        """Let the first gap pass, and deliver up to the next one."""
        base = self._next
        self._next = min(self._held, key=lambda sequence: (sequence - base) & 0xFFFF)
        self._release_run(now_s)

    def _release_run(self, now_s: float) -> None:
        held, following = self._held, self._next
        while (packet := held.pop(following, None)) is not None:
            self.reordered_packets += 1
            following = (following + 1) & 0xFFFF
            self._deliver(packet, 0, len(packet))
        self._next = following
        self._held_since_s = now_s
