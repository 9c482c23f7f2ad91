"""Faults that a simulated camera shows on request: by URL query, by control call, or by `SimulatedTown.set_fault`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from ingest.access_unit import StreamName


class FaultKind(StrEnum):
    """What goes wrong. The first group is seen while connecting (and ends what plays), the second while playing."""

    REFUSE = "refuse"  # connection refused (own port) or closed at once; the cable or the power is gone
    SILENT = "silent"  # no answer to a TCP connect (own port), else like hang; a firewall drops everything
    HANG = "hang"  # accepts TCP, never answers; what plays goes quiet
    UNAUTHORISED = "unauthorised"  # 401 whatever the password
    NOT_FOUND = "not_found"  # 404
    SESSION_LIMIT = "session_limit"  # 453 Not Enough Bandwidth at SETUP
    FREEZE = "freeze"  # plays, then sends nothing; the connection stays up and answers keep-alives
    FROZEN_PICTURE = "frozen_picture"  # frames keep coming, all of the same picture
    BLACK_PICTURE = "black_picture"
    CUT = "cut"  # the connection ends in the middle of a frame
    JUMP = "jump"  # RTP time jumps by `by_s`, once
    RESOLUTION = "resolution"  # another picture size in the same session
    GARBAGE = "garbage"  # random bytes instead of frames
    LOSS = "loss"  # `percent` of the RTP packets are missing
    SLOW = "slow"  # at most `bps`, everything `delay_ms` late


AT_CONNECT = frozenset(
    {
        FaultKind.REFUSE,
        FaultKind.SILENT,
        FaultKind.HANG,
        FaultKind.UNAUTHORISED,
        FaultKind.NOT_FOUND,
        FaultKind.SESSION_LIMIT,
    }
)
NEVER_ANSWERS = frozenset({FaultKind.SILENT, FaultKind.HANG})


class Fault(BaseModel):
    """A fault with its time and measure; `after_s` counts from the first frame (URL) or from the call (control)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: FaultKind
    after_s: float = Field(default=0.0, ge=0)
    for_s: float | None = Field(default=None, gt=0)  # None: until cleared
    stream: StreamName | None = None  # None: the whole camera
    percent: float = Field(default=5.0, ge=0, le=100)  # loss
    by_s: float = 3600.0  # jump; negative goes back
    bps: int | None = Field(default=None, gt=0)  # slow; None: not throttled
    delay_ms: int = Field(default=0, ge=0, le=4000)  # slow


@dataclass(frozen=True, slots=True)
class TimedFault:
    """A fault whose time runs: `since_s` is monotonic."""

    fault: Fault
    since_s: float

    def active(self, now_s: float) -> bool:
        """True between `after_s` and the end of `for_s`."""
        elapsed = now_s - self.since_s - self.fault.after_s
        return elapsed >= 0 and (self.fault.for_s is None or elapsed < self.fault.for_s)
