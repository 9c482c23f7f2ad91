"""RTSP and RTP from cameras: one session to one stream, parsed without per-packet objects. See docs/design/rtsp.md."""

from ingest.rtsp.errors import SessionError
from ingest.rtsp.session import Patience, RtspSession

__all__ = ["Patience", "RtspSession", "SessionError"]
