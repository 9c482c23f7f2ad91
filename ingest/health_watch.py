"""What is wrong with cameras for longer than a moment: faults beside the state, and events when it lasts.

Life cycle: a worker makes one `HealthWatch`, gives it all its streams' health about once a second (`observe`), tells it
what it has given away (`forget`), and ends it (`close`). It is pure: the clock is passed in, and what it answers is
told and stored by others. In the bad case (the worker dies) what was open is closed by who keeps the open events.

- Video loss (event 2.1 of GB/T 28181, one a camera for all its streams): a stream is lost from its first moment without
  frames until frames have come for `settled_s` at a stretch. The event opens when the time without frames adds up to
  `loss_after_s`, so that a camera that comes and goes is told as one loss, and is over when every stream has settled.
  Each loss soon after another one needs longer to settle.
- Timestamps stand still (event 5.11, kind `timestamps_stalled`): frames come, media time does not. Recordings of such a
  camera cannot be dated, and no network is to blame.
- Clock off, footage stale: faults without an event. GB/T 28181 has no code for the first; the recorder states events
  of its own for the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ingest.access_unit import StreamName
from ingest.clock import Clock
from ingest.damping import Damper
from ingest.event import Event
from ingest.health import (
    CLOCK_OFF,
    FOOTAGE_STALE,
    TIMESTAMPS_STALLED,
    VIDEO_LOST,
    CameraState,
    Fault,
    StreamHealth,
)
from ingest.ongoing_event import OngoingEvent

LOSS_CODE = "2.1"
ABNORMAL_CODE = "5.11"
LOSS_PRIORITY = 2
Fresh = Callable[[str, StreamName], bool | None]
"""(camera, stream) -> whether its newest footage is of now and on a disk that works; None where nothing is recorded."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Seconds, unless said otherwise."""

    loss_after_s: float = 30.0
    settled_s: float = 10.0
    most_settled_s: float = 300.0
    calm_s: float = 600.0  # without a loss, until `settled_s` is the usual one again
    update_every_s: float = 600.0  # an open event is stated again, so that after a crash its end is known about
    soonest_update_s: float = 60.0  # when its reason has changed
    clock_off_s: float = 2.0
    clock_on_s: float = 1.5  # the fault goes below this
    clock_unknown_s: float = 366 * 86_400.0  # a camera that counts from another epoch tells nothing about its clock
    timestamps_after_s: float = 30.0
    standing_rate: float = 0.1  # seconds of media time a second
    footage_stale_s: float = 15.0  # or two GOPs: a segment begins at a keyframe
    footage_unknown_gop_s: float = 60.0


@dataclass
class _Stream:
    """What is remembered of one stream. Times are monotonic seconds."""

    health: StreamHealth
    lost_since_s: float | None = None  # of the loss at hand, which may hold short returns
    lost_at: datetime | None = None
    down_s: float = 0.0  # without frames within that loss
    drops: int = 0
    live_since_s: float | None = None
    live_at: datetime | None = None
    standing_since_s: float | None = None
    standing_at: datetime | None = None
    stale_since_s: float | None = None
    faults: dict[str, Fault] = field(default_factory=dict)


class CameraHealthWatch:
    """One camera's streams. `is_fresh`: see `Fresh`."""

    def __init__(
        self,
        camera_id: str,
        clock: Clock,
        epoch: int,
        limits: HealthLimits | None = None,
        is_fresh: Fresh | None = None,
    ) -> None:
        self._limits = limits or HealthLimits()
        self._clock = clock
        self._is_fresh = is_fresh
        self._damper = Damper(self._limits.settled_s, self._limits.most_settled_s, self._limits.calm_s)
        self._loss = OngoingEvent(LOSS_CODE, camera_id, epoch, LOSS_PRIORITY)
        self._loss_told_s = 0.0
        self._returned_at: datetime | None = None  # of the stream that settled last
        self._standing = OngoingEvent(ABNORMAL_CODE, camera_id, epoch)
        self._streams: dict[str, _Stream] = {}
        self._seen_s = clock.monotonic_s()

    def observe(self, streams: Iterable[StreamHealth]) -> list[Event]:
        """What follows from how the camera's streams are now; streams that are not named are no longer pulled."""
        now_s, at = self._clock.monotonic_s(), self._clock.now()
        passed_s, self._seen_s = max(0.0, now_s - self._seen_s), now_s
        current = {health.stream: health for health in streams if health.state is not CameraState.STOPPED}
        for gone in self._streams.keys() - current.keys():
            del self._streams[gone]
        for name, health in current.items():
            known = self._streams.get(name)
            if known is None:
                known = self._streams[name] = _Stream(health)
                self._take(known, health, now_s, at, 0.0)
            else:
                self._take(known, health, now_s, at, passed_s)
        return self._loss_events(now_s, at) + self._standing_events(now_s, at)

    def faults(self, stream: str) -> tuple[Fault, ...]:
        """What is wrong with a stream now."""
        known = self._streams.get(stream)
        return tuple(known.faults.values()) if known is not None else ()

    def close(self, because: str) -> list[Event]:
        """Close whatever is open; what is observed later begins anew."""
        at = self._clock.now()
        closed = [one.close(because, at) for one in (self._loss, self._standing) if one.event is not None]
        self._streams.clear()
        return closed

    # ---- one stream

    def _take(self, known: _Stream, health: StreamHealth, now_s: float, at: datetime, passed_s: float) -> None:
        was_live = known.health.state is CameraState.LIVE
        known.health = health
        if health.state is CameraState.LIVE:
            if known.live_since_s is None:
                known.live_since_s, known.live_at = now_s, at
            if known.lost_since_s is not None and now_s - known.live_since_s >= self._damper.needed_s(now_s):
                self._returned_at = known.live_at
                known.lost_since_s = known.lost_at = None
                known.down_s, known.drops = 0.0, 0
        else:
            known.live_since_s = None
            if known.lost_since_s is None or was_live:
                stopped_at = self._stopped_at(health, at)
                known.drops += 1
                known.down_s += (at - stopped_at).total_seconds()
                if known.lost_since_s is None:
                    known.lost_since_s, known.lost_at = now_s, stopped_at
            else:
                known.down_s += passed_s
        self._find_standing(known, health, now_s, at)
        self._find_faults(known, health, at, now_s)

    def _stopped_at(self, health: StreamHealth, at: datetime) -> datetime:
        """When the last frame came, where that is near; a stall is noticed seconds later."""
        last_at = health.last_frame_at
        if last_at is not None and timedelta(0) <= at - last_at <= timedelta(seconds=self._limits.loss_after_s):
            return last_at
        return at

    def _find_standing(self, known: _Stream, health: StreamHealth, now_s: float, at: datetime) -> None:
        rate = health.media_rate
        is_standing = health.state is CameraState.LIVE and rate is not None and rate < self._limits.standing_rate
        if not is_standing:
            if rate is not None or health.state is not CameraState.LIVE:
                known.standing_since_s = known.standing_at = None
        elif known.standing_since_s is None:
            known.standing_since_s, known.standing_at = now_s, at

    def _find_faults(self, known: _Stream, health: StreamHealth, at: datetime, now_s: float) -> None:
        limits = self._limits
        facts: dict[str, dict[str, str]] = {}
        if known.lost_since_s is not None and known.down_s >= limits.loss_after_s:
            facts[VIDEO_LOST] = {"down_s": f"{known.down_s:.0f}", "drops": str(known.drops)}
        offset_s = health.clock_offset_s
        if offset_s is not None and abs(offset_s) < limits.clock_unknown_s:
            limit_s = limits.clock_on_s if CLOCK_OFF in known.faults else limits.clock_off_s
            if abs(offset_s) > limit_s:
                facts[CLOCK_OFF] = {"offset_s": f"{offset_s:+.1f}", "limit_s": f"{limits.clock_off_s:g}"}
        if known.standing_since_s is not None and self._stands(known):
            facts[TIMESTAMPS_STALLED] = {"rate": f"{health.media_rate or 0.0:.2f}"}
        if (stale_s := self._stale_s(known, health, now_s)) is not None:
            facts[FOOTAGE_STALE] = {"stale_s": f"{stale_s:.0f}"}
        known.faults = {
            code: Fault(code=code, facts=given, since=known.faults[code].since if code in known.faults else at)
            for code, given in facts.items()
        }

    def _stale_s(self, known: _Stream, health: StreamHealth, now_s: float) -> float | None:
        """For how long a live stream's footage has not been fresh, if that is too long."""
        is_live = health.state is CameraState.LIVE
        stream: StreamName = "sub" if health.stream == "sub" else "main"
        if not is_live or self._is_fresh is None or self._is_fresh(health.camera_id, stream) is not False:
            known.stale_since_s = None
            return None
        if known.stale_since_s is None:
            known.stale_since_s = now_s
        limits = self._limits
        gop_s = limits.footage_unknown_gop_s / 2 if health.gop_s is None else health.gop_s
        stale_s = now_s - known.stale_since_s
        return stale_s if stale_s > max(limits.footage_stale_s, 2 * gop_s) else None

    def _stands(self, known: _Stream) -> bool:
        assert known.standing_since_s is not None
        return self._clock.monotonic_s() - known.standing_since_s >= self._limits.timestamps_after_s

    # ---- events

    def _loss_events(self, now_s: float, at: datetime) -> list[Event]:
        lost = [one for one in self._ordered() if one.lost_since_s is not None]
        long = [one for one in lost if one.down_s >= self._limits.loss_after_s]
        event = self._loss.event
        if event is None:
            if not long:
                return []
            started_at = min(one.lost_at for one in long if one.lost_at is not None)
            self._loss_told_s, self._returned_at = now_s, None
            self._damper.came(now_s)
            return [self._loss.open(started_at, at, self._loss_facts(long))]
        if not lost:
            self._damper.left(now_s)
            because = "cleared" if self._returned_at is not None else "reconfigured"
            return [self._loss.close(because, at, self._returned_at)]
        down = [one for one in long or lost if one.health.state is not CameraState.LIVE]
        if not down:
            return []
        facts = self._loss_facts(down)
        since_s = now_s - self._loss_told_s
        is_news = any(facts[key] != event.attributes.get(key) for key in ("reason_code", "streams"))
        if since_s >= self._limits.update_every_s or (is_news and since_s >= self._limits.soonest_update_s):
            self._loss_told_s = now_s
            return [self._loss.update(at, facts)]
        return []

    def _standing_events(self, now_s: float, at: datetime) -> list[Event]:
        standing = [one for one in self._ordered() if one.standing_since_s is not None]
        long = [one for one in standing if self._stands(one)]
        if self._standing.event is not None:
            if standing:
                return []
            return [self._standing.close("cleared", at)]
        if not long:
            return []
        started_at = min(one.standing_at for one in long if one.standing_at is not None)
        streams = [one.health.stream for one in long]
        return [self._standing.open(started_at, at, {"kind": "timestamps_stalled", "streams": streams})]

    def _ordered(self) -> list[_Stream]:
        """`main` first: its reason stands for the camera."""
        return [self._streams[name] for name in sorted(self._streams)]

    @staticmethod
    def _loss_facts(lost: Sequence[_Stream]) -> dict[str, object]:
        first = lost[0].health
        code, facts = first.reason_code, first.reason_facts
        if code is None:  # live again for a moment, or not yet tried again
            code, facts = first.last_error_code, first.last_error_facts
        return {
            "kind": "video_loss",
            "state": first.state.value,
            "reason_code": code,
            "reason_facts": facts,
            "streams": [one.health.stream for one in lost],
            "down_s": round(max(one.down_s for one in lost), 1),
            "drops": max(one.drops for one in lost),
        }


class HealthWatch:
    """All cameras of a worker. `epoch` is larger than that of any earlier start of the worker."""

    def __init__(
        self,
        clock: Clock,
        epoch: int,
        limits: HealthLimits | None = None,
        is_fresh: Fresh | None = None,
    ) -> None:
        self._is_fresh = is_fresh
        self._clock = clock
        self._epoch = epoch
        self._limits = limits or HealthLimits()
        self._cameras: dict[str, CameraHealthWatch] = {}

    def observe(self, streams: Sequence[StreamHealth]) -> tuple[list[StreamHealth], list[Event]]:
        """(the same streams with their faults, the events that follow). A camera that is not among them is left."""
        cameras: dict[str, list[StreamHealth]] = {}
        for health in streams:
            cameras.setdefault(health.camera_id, []).append(health)
        events: list[Event] = []
        for camera_id, its_streams in cameras.items():
            watch = self._cameras.get(camera_id)
            if watch is None:
                watch = self._cameras[camera_id] = CameraHealthWatch(
                    camera_id, self._clock, self._epoch, self._limits, self._is_fresh
                )
            events += watch.observe(its_streams)
        shown = []
        for health in streams:
            faults = self._cameras[health.camera_id].faults(health.stream)
            shown.append(health.model_copy(update={"faults": faults}) if faults else health)
        return shown, events

    def forget(self, camera_id: str) -> list[Event]:
        """The camera is no longer this worker's; what is open on it is closed as `reconfigured`."""
        watch = self._cameras.pop(camera_id, None)
        return watch.close("reconfigured") if watch is not None else []

    def close(self, because: str = "stopped") -> list[Event]:
        """Close whatever is open."""
        return [event for watch in self._cameras.values() for event in watch.close(because)]
