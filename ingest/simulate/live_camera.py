"""A simulated camera while the town runs: its feeds, its faults, its sessions and what it has sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingest.access_unit import StreamName
from ingest.simulate.camera import SimCamera, canonical_query, parse_query
from ingest.simulate.fault import AT_CONNECT, NEVER_ANSWERS, Fault, FaultKind, TimedFault
from ingest.simulate.feed import Feed, StreamCounters, open_feed

if TYPE_CHECKING:
    from ingest.simulate.clips import ClipLibrary
    from ingest.simulate.pacer import Pacer
    from ingest.simulate.rtsp_connection import RtspConnection

_MOST_FEEDS = 64  # queries are free text: idle feeds are forgotten beyond this


@dataclass(eq=False)
class LiveCamera:
    """`now_s` is the event loop's clock; `epoch_s` is when the town's clock stood at 0."""

    config: SimCamera
    library: ClipLibrary
    pacer: Pacer
    now_s: Callable[[], float]
    epoch_s: float
    first_frame_number: int = 0
    fault: TimedFault | None = None
    feeds: dict[tuple[StreamName, str], Feed] = field(default_factory=dict)
    counters: dict[StreamName, StreamCounters] = field(
        default_factory=lambda: {"main": StreamCounters(), "sub": StreamCounters()}
    )
    connections: set[RtspConnection] = field(default_factory=set)
    sessions: int = 0

    def __post_init__(self) -> None:
        if self.config.fault is not None:
            self.fault = TimedFault(self.config.fault, self.now_s())

    def scene_time_s(self, now_s: float) -> float:
        """Seconds that the loop has run, its phase included; modulo the clip's length the place in the clip."""
        return now_s - self.epoch_s + self.config.phase_s

    def feed(self, stream: StreamName, query_text: str) -> Feed | None:
        """The feed for a request; None: no such stream.

        Raises:
            GridwatchError: simulate.bad_query.
        """
        text = canonical_query(query_text)
        found = self.feeds.get((stream, text))
        if found is None:
            found = open_feed(self, stream, text, parse_query(text))
            if found is None:
                return None
            self._forget_idle_feeds()
            self.feeds[stream, text] = found
        return found

    def _forget_idle_feeds(self) -> None:
        if len(self.feeds) >= _MOST_FEEDS:
            for key in [key for key, feed in self.feeds.items() if key[1] and not feed.playing]:
                del self.feeds[key]

    def connect_fault(self, stream: StreamName | None, query_text: str) -> FaultKind | None:
        """The fault that a request meets now, before anything plays. URL faults with `after_s` wait for PLAY."""
        now_s = self.now_s()
        timed = self.fault
        begun = timed is not None and timed.active(now_s) and timed.fault.kind in AT_CONNECT
        if timed is not None and begun and timed.fault.stream in (None, stream):
            return timed.fault.kind
        query = parse_query(query_text)
        if query.fault in AT_CONNECT and not query.after_s:
            return query.fault
        return None

    def set_fault(self, fault: Fault | None) -> None:
        """Begin a fault, or end it with None. What plays meets it at its next frame."""
        self.fault = None if fault is None else TimedFault(fault, self.now_s())
        if fault is not None and not fault.after_s:
            self.enforce()

    def enforce(self) -> None:
        """Apply a camera-wide fault to the connections that there are."""
        timed = self.fault
        if timed is None or not timed.active(self.now_s()):
            return
        for connection in tuple(self.connections):
            if timed.fault.stream not in (None, connection.stream):
                continue
            if timed.fault.kind is FaultKind.REFUSE:
                connection.abort()
            elif timed.fault.kind in NEVER_ANSWERS:
                connection.deaf = True
