"""The kinds of rule: from a camera's configured rules to their state machines."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

from analytics.rules.rule_state import RuleState
from analytics.rules.zone_intrusion import ZoneIntrusion
from ingest.camera import Camera, Rule

_KINDS: dict[str, Callable[[Camera, Rule, ZoneInfo, int], RuleState]] = {"zone_intrusion": ZoneIntrusion}


def rule_states(camera: Camera, timezone: ZoneInfo, epoch: int) -> list[RuleState]:
    """One state machine a rule of the camera, idle. `epoch` is the worker's, for the order of its events."""
    return [_KINDS[rule.kind](camera, rule, timezone, epoch) for rule in camera.rules]
