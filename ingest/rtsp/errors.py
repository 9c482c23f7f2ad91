"""Why a session ended, and which camera state that is. Codes and sentences: `messages/rtsp.toml`."""

from __future__ import annotations

from ingest.errors import GridwatchError
from ingest.health import CameraState

STATES: dict[str, CameraState] = {
    "camera.unreachable": CameraState.UNREACHABLE,
    "camera.unknown_host": CameraState.UNREACHABLE,
    "camera.refused": CameraState.REFUSED,
    "camera.closed_at_once": CameraState.REFUSED,
    "camera.no_answer": CameraState.STALLED,
    "camera.no_media": CameraState.STALLED,
    "camera.stalled": CameraState.STALLED,
    "camera.unauthorised": CameraState.UNAUTHORISED,
    "camera.no_credentials": CameraState.UNAUTHORISED,
    "camera.not_found": CameraState.NOT_FOUND,
    "camera.session_limit": CameraState.SESSION_LIMIT,
    "camera.bad_answer": CameraState.BAD_STREAM,
    "camera.bad_status": CameraState.BAD_STREAM,
    "camera.transport_refused": CameraState.BAD_STREAM,
    "camera.redirected_away": CameraState.BAD_STREAM,
    "camera.no_video": CameraState.BAD_STREAM,
    "camera.codec": CameraState.BAD_STREAM,
    "camera.no_keyframe": CameraState.BAD_STREAM,
    "camera.libav": CameraState.BAD_STREAM,
    "camera.connection_lost": CameraState.CONNECTING,
    "camera.udp_loss": CameraState.CONNECTING,
    "camera.session_lost": CameraState.CONNECTING,
    "camera.ended": CameraState.CONNECTING,
}


class SessionError(GridwatchError):
    """A session could not be opened, or has ended. `state` is what the camera's link shows for it."""

    @property
    def state(self) -> CameraState:
        """The camera state of this reason."""
        return STATES[self.code]
