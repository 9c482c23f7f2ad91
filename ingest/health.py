"""How a camera is: its state with the reason, and the counters behind it. Facts for the API, the page and /metrics."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

VIDEO_LOST = "health.video_lost"
CLOCK_OFF = "health.clock_off"
TIMESTAMPS_STALLED = "health.timestamps_stalled"
FOOTAGE_STALE = "health.footage_stale"


class CameraState(StrEnum):
    """The state of one stream's link, as operators see it."""

    WAITING = "waiting"  # configured, not yet tried
    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"  # connected, no frames for max(5 s, three usual frame intervals)
    UNREACHABLE = "unreachable"  # no TCP answer
    REFUSED = "refused"  # the host answered and refused, or closed at once
    UNAUTHORISED = "unauthorised"  # 401 with the given credentials
    NOT_FOUND = "not_found"  # 404: no such stream
    SESSION_LIMIT = "session_limit"  # 453 or 503
    BAD_STREAM = "bad_stream"  # answers that are no RTSP, or media that cannot be read
    STOPPED = "stopped"


class Fault(BaseModel):
    """One thing that is wrong with a stream, beside its state; the code's sentence is in `messages/health.toml`."""

    model_config = ConfigDict(frozen=True)
    code: str
    facts: dict[str, str] = {}
    since: AwareDatetime


class StreamHealth(BaseModel):
    """A snapshot of one stream's link; counters only grow while the worker lives."""

    model_config = ConfigDict(frozen=True)
    camera_id: str
    stream: str
    state: CameraState
    reason_code: str | None = None  # code of ingest/messages.toml
    reason_facts: dict[str, str] = {}
    since: AwareDatetime  # when this state began
    fps: float | None = None  # measured over the last seconds
    bitrate_bps: float | None = None
    gop_s: float | None = None  # measured between the last keyframes
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    frames: int = 0
    bytes: int = 0
    lost_packets: int = 0
    reconnects: int = 0
    last_frame_at: AwareDatetime | None = None
    last_keyframe_at: AwareDatetime | None = None
    dropped_units: int = 0  # by slow readers, all together
    clock_offset_s: float | None = None  # of the camera's clock against the server's, by its sender reports
    jitter_ms: float | None = None  # of whole pictures' arrival against their media time (RFC 3550 6.4.1, smoothed)
    gaps: int = 0  # places where packets are missing, however many
    media_rate: float | None = None  # seconds of media time a second; 0 where the camera's timestamps stand still
    last_error_code: str | None = None  # why it was not live the last time; stays when it is live again
    last_error_facts: dict[str, str] = {}
    last_error_at: AwareDatetime | None = None
    faults: tuple[Fault, ...] = ()  # what is wrong although the link may be live, see `ingest.health_watch`

    @property
    def is_live(self) -> bool:
        """Frames arrive, and where they are to be recorded the newest segment is fresh."""
        return self.state is CameraState.LIVE and not any(fault.code == FOOTAGE_STALE for fault in self.faults)
