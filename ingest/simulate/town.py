"""The simulated town: any number of cameras behind one RTSP port on 127.0.0.1, for the demo, tests and benches.

    async with SimulatedTown(cameras=[SimCamera("cam-1")]) as town:
        url = town.url("cam-1", "main")
        town.set_fault("cam-1", Fault(kind=FaultKind.FREEZE, after_s=3))

Entering loads the clips (and, only when none were given, encodes the tests' set on its first use) and opens the ports;
leaving closes every connection and port.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from ingest.access_unit import StreamName
from ingest.errors import GridwatchError
from ingest.simulate.camera import SimCamera
from ingest.simulate.clips import ClipLibrary, ensure_clips
from ingest.simulate.digest import DigestGate
from ingest.simulate.fault import Fault, FaultKind, TimedFault
from ingest.simulate.feed import StreamCounters
from ingest.simulate.live_camera import LiveCamera
from ingest.simulate.own_port import OwnPort, PortState
from ingest.simulate.pacer import Pacer
from ingest.simulate.rtsp_connection import RtspConnection
from ingest.simulate.udp_media import UdpMedia

if TYPE_CHECKING:
    from ingest.simulate.control import ControlServer

_log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"  # simulated cameras are reached from this machine only
SESSION_TIMEOUT_S: Final = 60.0
_START_LEAD_S: Final = 0.15  # clips begin a little later, so that who connects at once need not wait a whole GOP
_PORT_STATES: Final[dict[FaultKind, PortState]] = {FaultKind.REFUSE: "refusing", FaultKind.SILENT: "silent"}


class SimulatedTown:
    """See the module. `port=0` and `control_port=0` choose free ports; `control_port=None` opens no control port."""

    def __init__(
        self,
        cameras: Iterable[SimCamera],
        port: int = 0,
        *,
        clips: ClipLibrary | None = None,
        control_port: int | None = None,
        session_timeout_s: float = SESSION_TIMEOUT_S,
        first_frame_number: int = 0,
    ) -> None:
        self._configs = list(cameras)
        self._wanted_port = port
        self._clips = clips
        self._control_port = control_port
        self._first_frame_number = first_frame_number
        self.session_timeout_s = session_timeout_s
        self.gate = DigestGate()
        self.connections: set[RtspConnection] = set()
        self._cameras: dict[str, LiveCamera] = {}
        self._own_ports: dict[str, OwnPort] = {}
        self._server: asyncio.Server | None = None
        self._control: ControlServer | None = None
        self._switches: set[asyncio.Task[None]] = set()

    # life cycle

    async def __aenter__(self) -> SimulatedTown:
        loop = asyncio.get_running_loop()
        self._loop = loop
        clips = self._clips if self._clips is not None else await asyncio.to_thread(ensure_clips)
        await asyncio.to_thread(self._load_clips, clips)
        _raise_file_limit()
        self._pacer = Pacer(loop)
        epoch_s = loop.time() + _START_LEAD_S
        for config in self._configs:
            if config.id in self._cameras:
                raise GridwatchError("simulate.camera_twice", camera=config.id)
            for profile in (config.main, config.sub):
                if profile is not None and clips.recipe(config.scene, profile) is None:
                    known = ", ".join(sorted({known.name for known in clips.profiles()}))
                    raise GridwatchError("simulate.no_clip", camera=config.id, profile=profile, known=known)
            self._cameras[config.id] = LiveCamera(
                config, clips, self._pacer, loop.time, epoch_s, self._first_frame_number
            )
        self.udp = UdpMedia(HOST)
        self.udp.open(loop)
        try:
            self._server = await loop.create_server(lambda: RtspConnection(self), HOST, self._wanted_port, backlog=1024)
        except OSError as error:
            self.udp.close(loop)
            raise GridwatchError("simulate.port_taken", port=self._wanted_port, why=error.strerror or error) from error
        for camera in self._cameras.values():
            if camera.config.own_port:
                await self._open_own_port(camera)
        if self._control_port is not None:
            from ingest.simulate.control import ControlServer

            self._control = ControlServer(self, HOST, self._control_port)
            await self._control.start()
        _log.info("simulated town is up", extra={"cameras": len(self._cameras), "port": self.port})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._control is not None:
            await self._control.stop()
        for task in tuple(self._switches):
            task.cancel()
        if self._server is not None:
            self._server.close()
        for own_port in self._own_ports.values():
            own_port.close()
        self._pacer.close()
        for connection in tuple(self.connections):
            connection.abort()
        while self.connections:  # noqa: ASYNC110 - each is lost at the loop's next turns
            await asyncio.sleep(0)
        self.udp.close(self._loop)

    def _load_clips(self, clips: ClipLibrary) -> None:
        """Everything that a camera may play without a query; the rest is read when first asked for."""
        for config in self._configs:
            for profile in (config.main, config.sub):
                if profile is not None:
                    clips.get(config.scene, profile)

    async def _open_own_port(self, camera: LiveCamera) -> None:
        own_port = OwnPort(HOST, lambda: RtspConnection(self, only=camera))
        self._own_ports[camera.config.id] = own_port
        await own_port.switch(self._port_state(camera))

    # addresses

    @property
    def port(self) -> int:
        """The RTSP port of all cameras that have none of their own."""
        assert self._server is not None, "the town is not running"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def control_url(self) -> str:
        """Where the control calls go, without a slash at the end."""
        assert self._control is not None, "the town has no control port"
        return self._control.url

    def url(self, camera_id: str, stream: StreamName = "main", **query: object) -> str:
        """A camera's URL, with its user and password; `query` asks for variants and faults (`gop_s=10`)."""
        camera = self._camera(camera_id)
        own_port = self._own_ports.get(camera_id)
        config = camera.config
        user = f"{quote(config.user, safe='')}:{quote(config.password, safe='')}@" if config.user is not None else ""
        text = urlencode({k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items()})
        port = own_port.port if own_port else self.port
        return f"rtsp://{user}{HOST}:{port}/{quote(camera_id)}/{stream}" + (f"?{text}" if text else "")

    # what is known

    @property
    def cameras(self) -> list[LiveCamera]:
        """All cameras in the order given."""
        return list(self._cameras.values())

    def live(self, camera_id: str) -> LiveCamera | None:
        """A camera, or None."""
        return self._cameras.get(camera_id)

    def now_s(self) -> float:
        """The event loop's clock, which everything here runs by."""
        return self._loop.time()

    def counters(self, camera_id: str, stream: StreamName = "main") -> StreamCounters:
        """What a stream has sent, over all its sessions; the object grows while the town runs."""
        return self._camera(camera_id).counters[stream]

    def frames_sent(self, camera_id: str, stream: StreamName = "main") -> int:
        """Frames that left the stream for at least one client."""
        return self.counters(camera_id, stream).frames_sent

    def playing(self, camera_id: str) -> int:
        """How many sessions play on the camera now."""
        return sum(feed.playing for feed in self._camera(camera_id).feeds.values())

    def scene_time_s(self, camera_id: str) -> float:
        """Where in its clip the camera's main stream is now, in seconds; compare with the clip's ground truth."""
        camera = self._camera(camera_id)
        clip = camera.library.get(camera.config.scene, camera.config.main)
        assert clip is not None
        return camera.scene_time_s(self.now_s()) % clip.duration_s

    # faults

    def set_fault(self, camera_id: str, fault: Fault | FaultKind) -> None:
        """Begin a fault on a camera; it replaces the one that there is, and lasts until `clear` or its `for_s`."""
        camera = self._camera(camera_id)
        chosen = fault if isinstance(fault, Fault) else Fault(kind=fault)
        camera.set_fault(chosen)
        _log.info("fault begins", extra={"camera": camera_id, "fault": chosen.kind.value, "after_s": chosen.after_s})
        self._follow(camera)

    def clear(self, camera_id: str) -> None:
        """End a camera's fault."""
        camera = self._camera(camera_id)
        camera.set_fault(None)
        _log.info("fault ends", extra={"camera": camera_id})
        self._follow(camera)

    def _follow(self, camera: LiveCamera) -> None:
        """Bring port and connections in line with the camera's fault, now and when it begins or ends by itself."""
        self._enforce(camera, camera.fault)
        if camera.fault is None:
            return
        fault = camera.fault.fault
        for moment_s in (fault.after_s, fault.after_s + (fault.for_s or 0.0)):
            if moment_s:
                self._loop.call_later(moment_s + 0.001, self._enforce, camera, camera.fault)

    def _enforce(self, camera: LiveCamera, of: TimedFault | None) -> None:
        if camera.fault is not of:
            return  # replaced or cleared in the meantime
        camera.enforce()
        own_port = self._own_ports.get(camera.config.id)
        if own_port is not None:
            task = self._loop.create_task(own_port.switch(self._port_state(camera)), name="switch own port")
            self._switches.add(task)
            task.add_done_callback(self._switches.discard)

    def _port_state(self, camera: LiveCamera) -> PortState:
        if camera.fault is None or not camera.fault.active(self.now_s()):
            return "listening"
        return _PORT_STATES.get(camera.fault.fault.kind, "listening")

    def _camera(self, camera_id: str) -> LiveCamera:
        found = self._cameras.get(camera_id)
        if found is None:
            raise GridwatchError("simulate.unknown_camera", camera=camera_id)
        return found


def _raise_file_limit() -> None:
    """A socket a session: take what the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
