"""Zone intrusion (GB/T 28181 5.6): someone or something is in a zone during the rule's hours. One event while it lasts.

    idle --enough qualifying looks--> open --clear long enough, hours ended, camera lost, stopped--> cooling --> idle

A look qualifies when a detection of the rule's classes, good enough, has its foot point (middle of the box's lower
edge, where it touches the ground) in the zone or on its border. While open, an event is stated again when a clearly
better look came or `update_every_s` has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from shapely import Point, Polygon, prepare

from analytics.detector import Detection
from analytics.rules.rule_state import ClosedBecause, Sighting
from ingest.camera import Camera, Rule
from ingest.event import Event, Evidence, new_id

CODE = "5.6"


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """When an intrusion begins, is told again, and is over. Seconds are media time."""

    open_looks: int = 1  # qualifying looks in a row
    clear_looks: int = 3  # looks in a row without any, and
    clear_after_s: float = 8.0  # at least this long since the last qualifying one
    update_every_s: float = 10.0
    better_by: float = 0.1  # score


class ZoneIntrusion:
    """The state of one rule of one camera; see `RuleState`."""

    def __init__(
        self,
        camera: Camera,
        rule: Rule,
        timezone: ZoneInfo,
        epoch: int,
        hysteresis: Hysteresis | None = None,
        make_id: Callable[[], UUID] = new_id,
    ) -> None:
        self._camera = camera
        self._rule = rule
        self._timezone = timezone
        self._epoch = epoch
        self._limits = hysteresis or Hysteresis()
        self._make_id = make_id
        self._area = Polygon(camera.zone(rule.zone).polygon)
        prepare(self._area)
        self._event: Event | None = None  # the last statement while open
        self._seen_at: datetime | None = None
        self._seen_s = 0.0  # media time of the last qualifying look
        self._told_s = 0.0  # media time of the last statement
        self._in_a_row = 0  # qualifying looks while idle, looks without any while open
        self._quiet_until_s: float | None = None
        self._last_s = 0.0

    @property
    def is_busy(self) -> bool:
        return self._event is not None or self._in_a_row > 0

    def is_awake(self, at: datetime) -> bool:
        return self._rule.is_active(at, self._timezone)

    def observe(self, sighting: Sighting) -> list[Event]:
        self._last_s = sighting.media_s
        if not self.is_awake(sighting.at):
            return self.close("hours_ended", sighting.at)
        inside = [found for found in sighting.detections if self._qualifies(found)]
        if self._event is None:
            return self._while_idle(sighting, inside)
        return self._while_open(self._event, sighting, inside)

    def tick(self, at: datetime) -> list[Event]:
        return [] if self.is_awake(at) else self.close("hours_ended", at)

    def close(self, because: ClosedBecause, at: datetime) -> list[Event]:
        self._in_a_row = 0
        if self._event is None:
            return []
        closed = self._next(
            self._event,
            at,
            state="closed",
            ended_at=self._seen_at,
            attributes={**self._event.attributes, "closed_because": because},
        )
        self._event = None
        self._quiet_until_s = self._last_s + self._rule.cooldown_s
        return [closed]

    def _qualifies(self, found: Detection) -> bool:
        if found.object_class not in self._rule.classes or found.score < self._rule.min_score:
            return False
        foot = Point(found.box.x + found.box.w / 2, found.box.y + found.box.h)
        return bool(self._area.covers(foot))

    def _while_idle(self, sighting: Sighting, inside: list[Detection]) -> list[Event]:
        if self._quiet_until_s is not None and sighting.media_s < self._quiet_until_s:
            return []
        if not inside or not sighting.is_whole:
            self._in_a_row = 0 if sighting.is_whole else self._in_a_row
            return []
        self._in_a_row += 1
        if self._in_a_row < self._limits.open_looks:
            return []
        best = max(inside, key=lambda found: found.score)
        self._in_a_row = 0
        self._seen(sighting)
        self._told_s = sighting.media_s
        self._event = Event(
            id=self._make_id(),
            epoch=self._epoch,
            number=1,
            state="opened",
            code=CODE,
            camera_id=self._camera.id,
            rule_id=self._rule.id,
            zone_id=self._rule.zone,
            priority=self._rule.priority,
            started_at=sighting.at,
            updated_at=sighting.at,
            score=best.score,
            object_class=best.object_class,
            box=best.box,
            lon=self._camera.lon,
            lat=self._camera.lat,
            evidence=_pictures(sighting.save_picture(), ()),
            attributes={"looks": 1, "most_at_once": len(inside)},
        )
        return [self._event]

    def _while_open(self, event: Event, sighting: Sighting, inside: list[Detection]) -> list[Event]:
        if not inside:
            self._in_a_row += sighting.is_whole
            long_enough = sighting.media_s - self._seen_s >= self._limits.clear_after_s
            if long_enough and self._in_a_row >= self._limits.clear_looks:
                return self.close("cleared", sighting.at)
            return []
        self._in_a_row = 0
        self._seen(sighting)
        best = max(inside, key=lambda found: found.score)
        attributes = {
            **event.attributes,
            "looks": event.attributes["looks"] + 1,
            "most_at_once": max(event.attributes["most_at_once"], len(inside)),
        }
        is_better = sighting.is_whole and best.score >= (event.score or 0.0) + self._limits.better_by
        if not is_better and sighting.media_s - self._told_s < self._limits.update_every_s:
            self._event = event.model_copy(update={"attributes": attributes})
            return []
        changes: dict[str, object] = {"state": "updated", "attributes": attributes}
        if is_better:
            changes |= {
                "score": best.score,
                "object_class": best.object_class,
                "box": best.box,
                "evidence": _pictures(sighting.save_picture(), event.evidence),
            }
        self._told_s = sighting.media_s
        self._event = self._next(event, sighting.at, **changes)
        return [self._event]

    def _seen(self, sighting: Sighting) -> None:
        # The wall clock may have been set back: an event never ends before it began.
        self._seen_at = max(sighting.at, self._event.started_at) if self._event else sighting.at
        self._seen_s = sighting.media_s

    @staticmethod
    def _next(event: Event, at: datetime, **changes: object) -> Event:
        return event.model_copy(update={"number": event.number + 1, "updated_at": max(at, event.updated_at), **changes})


def _pictures(new: Evidence | None, known: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """The best picture first, then the one that opened the event."""
    if new is None:
        return known
    return (new, *known[-1:]) if new not in known[-1:] else known[-1:]
