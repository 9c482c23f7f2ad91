"""Watching one camera: what its gate, its detections and its rules remember from look to look.

Life cycle: made with the camera's configuration, given each decoded keyframe by one thread at a time, told about time
and loss, and given a changed configuration by `reconfigure`: rules that stay as they were go on with what is open. It
decides and states; telling the world is `analytics.watch`'s work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo

from analytics.decode import Picture
from analytics.detector import Detection, Detector
from analytics.evidence import EvidenceStore
from analytics.gate import HEIGHT_PX, WIDTH_PX, Gate
from analytics.picture_health import ROWS, PictureHealth
from analytics.rules.kinds import rule_states
from analytics.rules.rule_state import ClosedBecause, RuleState, Sighting
from analytics.timeline import MediaTimeline
from ingest.access_unit import AccessUnit
from ingest.camera import Camera, Rule, Zone
from ingest.event import Event, Evidence

log = logging.getLogger(__name__)

EVIDENCE_LONGEST_SIDE_PX = 1280
EVIDENCE_QUALITY = 85

_RuleKey = tuple[Rule, Zone, float, float, ZoneInfo]  # all that a rule's state machine is made of


@dataclass(slots=True)
class WatchCounters:
    """What happened on one camera; counters only grow while the worker lives."""

    detector_runs: int = 0
    detector_saved: int = 0  # looks where the gate found nothing changed
    corrupt_pictures: int = 0
    evidence_failures: int = 0
    events: int = 0
    picture: str | None = None  # what is wrong with it: frozen, black


class CameraWatch:
    """Not thread-safe: its caller lets one thread in at a time."""

    def __init__(
        self, camera: Camera, detector: Detector, evidence: EvidenceStore, timezone: ZoneInfo, epoch: int
    ) -> None:
        self.camera = camera
        self.counters = WatchCounters()
        self.changed = True  # the last look showed something new
        self._detector = detector
        self._evidence = evidence
        self._epoch = epoch
        self._rules = rule_states(camera, timezone, epoch)
        self._rule_keys = _rule_keys(camera, timezone)
        self._picture_health = PictureHealth(camera, epoch)
        self._last_s = 0.0  # monotonic, of the last look
        self._gate = Gate()
        self._timeline = MediaTimeline()
        self._detections: Sequence[Detection] | None = None  # None: the detector has not seen this scene

    @property
    def is_busy(self) -> bool:
        """Something goes on: looks are worth more here."""
        return self._rules_are_busy or self._picture_health.is_suspicious

    @property
    def _rules_are_busy(self) -> bool:
        return any(rule.is_busy for rule in self._rules)

    def look(self, unit: AccessUnit, picture: Picture) -> list[Event]:
        """What follows from one keyframe, in order. `emitted_at` is left open."""
        media_s = self._timeline.advance(unit)
        at = datetime.fromtimestamp(unit.wall_s, UTC)
        self.counters.corrupt_pictures += picture.is_corrupt
        self._last_s = unit.received_s

        @cache  # rules that open at the same look share one picture
        def save_picture() -> Evidence | None:
            return self._save(picture, at)

        events = self.tick(at)
        if not picture.is_corrupt:  # a guessed picture proves nothing
            rows = picture.luma_rows(ROWS)
            events += self._counted(self._picture_health.observe(rows, at, unit.received_s, save_picture))
            self.counters.picture = self._picture_health.kind
        unchanged = self._gate.unchanged(picture.gray(WIDTH_PX, HEIGHT_PX))
        self.changed = not unchanged
        if not any(rule.is_awake(at) for rule in self._rules):
            self._detections = None
            return events
        # Nothing changed: what was seen last still holds. While an event is open, nobody guesses.
        if unchanged and not self._rules_are_busy and self._detections is not None:
            self.counters.detector_saved += 1
        else:
            self.counters.detector_runs += 1
            self._detections = self._detector.detect(picture.rgb(*self._detector.input_size))

        sighting = Sighting(self._detections, at, media_s, save_picture, is_whole=not picture.is_corrupt)
        return events + self._counted([event for rule in self._rules for event in rule.observe(sighting)])

    def tick(self, at: datetime) -> list[Event]:
        """What follows from time alone."""
        return self._counted([event for rule in self._rules for event in rule.tick(at)])

    def reconfigure(self, camera: Camera, timezone: ZoneInfo, at: datetime) -> list[Event]:
        """Go on with a changed camera of the same id; what rules that are gone or changed have open is closed."""
        keys, fresh = _rule_keys(camera, timezone), rule_states(camera, timezone, self._epoch)
        before = list(zip(self._rule_keys, self._rules, strict=True))
        rules: list[RuleState] = []
        for key, state in zip(keys, fresh, strict=True):
            rules.append(next((kept for old, kept in before if old == key), state))
        gone = [state for state in self._rules if state not in rules]
        self.camera, self._rules, self._rule_keys = camera, rules, keys
        self._picture_health.camera = camera
        return self._counted([event for rule in gone for event in rule.close("reconfigured", at)])

    def close(self, because: ClosedBecause, at: datetime) -> list[Event]:
        """Close whatever is open."""
        events = [event for rule in self._rules for event in rule.close(because, at)]
        events += self._picture_health.close(because, at, self._last_s)
        self.counters.picture = None
        return self._counted(events)

    def _counted(self, events: list[Event]) -> list[Event]:
        self.counters.events += sum(event.state == "opened" for event in events)
        return events

    def _save(self, picture: Picture, at: datetime) -> Evidence | None:
        try:
            jpeg, width, height = picture.jpeg(EVIDENCE_LONGEST_SIDE_PX, EVIDENCE_QUALITY)
            return self._evidence.save_jpeg(jpeg, at, width, height)
        except OSError as error:  # an event without its picture is better than none
            self.counters.evidence_failures += 1
            log.error("evidence could not be saved", extra={"camera": self.camera.id, "why": str(error)})
            return None


def _rule_keys(camera: Camera, timezone: ZoneInfo) -> list[_RuleKey]:
    return [(rule, camera.zone(rule.zone), camera.lon, camera.lat, timezone) for rule in camera.rules]
