"""The fallback for cameras that only libav understands: demuxed by PyAV in a thread, same face as `RtspSession`.

Costs a thread a camera and several times the processor; chosen by `transport: libav` only. libav hides RTP: loss and
the camera's clock are unknown here. Its packets pass through the same unit assembly, so a keyframe carries its
parameter sets and times are fitted as everywhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ingest.access_unit import AccessUnit
from ingest.clock import Clock
from ingest.rtsp.depacketiser import Depacketiser, depacketiser_for
from ingest.rtsp.errors import SessionError
from ingest.rtsp.parameter_sets import ParameterSets, split_annex_b
from ingest.rtsp.timeline import Timeline
from ingest.secret import SecretUrl

if TYPE_CHECKING:
    from ingest.rtsp.session import Patience

READ_TIMEOUT_S = 5.0
_STATUS_CODES = {
    "HTTPUnauthorizedError": "camera.unauthorised",
    "HTTPNotFoundError": "camera.not_found",
    "ConnectionRefusedError": "camera.refused",
    "TimeoutError": "camera.unreachable",
}


class LibavSession:
    """Life as `RtspSession`'s. The thread ends within `READ_TIMEOUT_S` of `close`."""

    def __init__(
        self,
        url: SecretUrl,
        *,
        clock: Clock,
        on_unit: Callable[[AccessUnit], None],
        camera: str = "",
        stream: str = "main",
        patience: Patience,
    ) -> None:
        self.camera = camera
        self.stream = stream
        self.transport: Literal["tcp", "udp", "libav"] = "libav"
        self.clock_offset_s: float | None = None
        self.lost_packets = 0
        self.packets = 0
        self._url = url
        self._clock = clock
        self._on_unit = on_unit
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[SessionError] = self._loop.create_future()
        self._timeline = Timeline(self._on_reorder)
        self._depacketiser: Depacketiser | None = None
        self.sample_wall()

    @property
    def seen_units(self) -> int:
        """Pictures that came."""
        return self._depacketiser.seen_units if self._depacketiser else 0

    @property
    def units(self) -> int:
        """Units delivered."""
        return self._depacketiser.units if self._depacketiser else 0

    @property
    def media_bytes(self) -> int:
        """Bytes of delivered units."""
        return self._depacketiser.media_bytes if self._depacketiser else 0

    @property
    def last_unit_s(self) -> float:
        """When the last picture came, monotonic seconds."""
        return self._depacketiser.last_unit_s if self._depacketiser else 0.0

    @property
    def why_no_unit(self) -> str:
        """What is known about pictures that could not be delivered."""
        problem = self._depacketiser.sets.last_problem if self._depacketiser else None
        return f"{self.packets} packets came" + (f", parameter set: {problem}" if problem else "")

    async def open(self) -> None:
        """Start the thread and wait until libav plays.

        Raises:
            SessionError: libav could not open the stream.
        """
        threading.Thread(target=self._demux, name=f"libav {self.camera}/{self.stream}", daemon=True).start()
        await asyncio.shield(self._opened)

    async def ended(self) -> SessionError:
        """Wait until the stream has ended, and say why."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Ask the thread to end; nothing is delivered any more."""
        self._stop.set()

    def sample_wall(self) -> None:
        """Compare the server's two clocks."""
        self._timeline.set_wall_offset(self._clock.now().timestamp() - self._clock.monotonic_s())

    # the thread

    def _demux(self) -> None:
        import av
        import av.error

        patience = self._patience
        options = {"rtsp_transport": "tcp", "analyzeduration": "1", "probesize": "5000", "fpsprobesize": "0"}
        try:
            timeout = (patience.connect_s + patience.answer_s, READ_TIMEOUT_S)
            with av.open(self._url.reveal(), options=options, timeout=timeout) as container:
                video = next(iter(container.streams.video), None)
                if video is None:
                    self._tell(self._error("camera.no_video", what=f"{len(container.streams)} streams"))
                    return
                name = video.codec_context.name
                if name not in ("h264", "hevc"):
                    self._tell(self._error("camera.codec", what=name))
                    return
                extradata = bytes(video.codec_context.extradata or b"")
                self._call(self._begin, name, split_annex_b(extradata), video.time_base)
                for packet in container.demux(video):
                    if self._stop.is_set():
                        return
                    if packet.size and packet.pts is not None:
                        self._call(self._take, bytes(packet), packet.pts)
                # libav ends without an exception when the camera aborts the connection.
                self._tell(self._error("camera.connection_lost", why="end of stream"))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            code = _STATUS_CODES.get(type(error).__name__, "camera.libav")
            why = getattr(error, "strerror", None) or type(error).__name__
            facts: dict[str, Any] = {"host": "", "port": "", "url": self._url, "waited_s": READ_TIMEOUT_S}
            self._tell(self._error(code, why=why, **facts))

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        if not self._stop.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def _tell(self, error: SessionError) -> None:
        self._call(self._end, error)

    # the loop

    def _begin(self, name: Literal["h264", "hevc"], sets: list[bytes], time_base: Any) -> None:
        self._ticks = float(time_base * 90_000)
        self._depacketiser = depacketiser_for(96, ParameterSets(name), self._timeline, self._deliver)
        self._depacketiser.learn(sets)
        if not self._opened.done():
            self._opened.set_result(None)

    def _take(self, data: bytes, pts: int) -> None:
        depacketiser = self._depacketiser
        if depacketiser is None or self._stop.is_set():
            return
        self.packets += 1
        depacketiser.received_s = self._clock.monotonic_s()
        depacketiser.whole_unit(split_annex_b(data), round(pts * self._ticks) & 0xFFFF_FFFF)

    def _deliver(self, unit: AccessUnit) -> None:
        if not self._stop.is_set():
            self._on_unit(unit)

    def _on_reorder(self, depth: int) -> None:
        if self._depacketiser is not None:
            self._depacketiser.sets.observe_reorder(depth)

    def _end(self, error: SessionError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            return
        if not self._ended.done():
            self._ended.set_result(error)

    def _error(self, code: str, **facts: object) -> SessionError:
        return SessionError(code, camera=self.camera, stream=self.stream, **facts)
