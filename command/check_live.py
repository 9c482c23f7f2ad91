"""What `gridwatch check --live` finds: each camera pulled for some seconds, measured, and judged by its settings.

Nothing is decoded or kept. Cameras are measured `AT_ONCE` together, both streams of a camera at the same time, over the
transport that the file names (`auto`: TCP, then UDP where TCP is refused or brings nothing, as in operation). A camera
that gives no picture is an error, told with the link's own sentence; settings that hurt are warnings with the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from command.plan import Assumed
from ingest.access_unit import AccessUnit, StreamName
from ingest.camera import Camera
from ingest.clock import SystemClock
from ingest.errors import sentence
from ingest.rtsp import Patience, RtspSession, SessionError
from ingest.rtsp.libav import LibavSession
from ingest.secret import SecretUrl
from ingest.source_lines import Problem

AT_ONCE = 24
MAIN_GOP_S = (
    10.0  # of a main stream beside a sub: how long a viewer may have to wait, and how coarse recordings are cut
)
GOP_VARIES = 1.5  # longest over shortest
CLOCK_OFF_S = 2.0
OVER_PLAN = 2.0
LOSS = 0.005
_PATIENCE = Patience(connect_s=5.0, first_answer_s=6.0, answer_s=6.0)

ParameterSetPlace = Literal["sdp", "inband", "both"]


@dataclass(frozen=True)
class Window:
    """A stream is watched for `least_s` (so that it tells its time), until three keyframes, at most `most_s`."""

    least_s: float = 6.0
    most_s: float = 12.0


@dataclass(frozen=True)
class Measured:
    """What a stream showed. Times in seconds; `gop_s` is the longest seen, at least, when `gop_open`."""

    camera: str
    stream: StreamName
    transport: str
    codec: str
    width: int
    height: int
    fps: float | None
    bitrate_bps: float
    gop_s: float
    gop_shortest_s: float | None
    gop_open: bool  # no second keyframe came: the GOP is longer than could be seen
    b_frames: bool
    clock_offset_s: float | None  # None: the camera has not said its time
    parameter_sets: ParameterSetPlace | None  # None: not to be known through libav
    packets: int
    lost_packets: int

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class CameraProblem(Problem):
    """A problem whose sentence already names the camera."""

    def sentence(self, lang: str = "zh") -> str:
        """The sentence in `lang`, as it stands in the catalogue."""
        return sentence(self.code, lang, **self.facts)


async def check_live(
    cameras: Sequence[Camera],
    *,
    file: str,
    line: Callable[[str], int],
    look_every_s: float = 4.0,
    window: Window | None = None,
    plan: Assumed | None = None,
    on_measured: Callable[[int], None] | None = None,
) -> tuple[list[Measured], list[Problem]]:
    """Measure all streams of `cameras`; what was measured and what is wrong, in the cameras' order.

    `line` gives a camera's line in `file`; `on_measured(count)` tells of each camera that is done.
    """
    places = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(camera: Camera) -> tuple[list[Measured], list[Problem]]:
        nonlocal done
        async with places:
            found = await _check_camera(
                camera, file, line(camera.id), look_every_s, window or Window(), plan or Assumed()
            )
        done += 1
        if on_measured is not None:
            on_measured(done)
        return found

    results = await asyncio.gather(*(one(camera) for camera in cameras))
    return [m for measured, _ in results for m in measured], [p for _, problems in results for p in problems]


def judge(
    camera: Camera, measured: Sequence[Measured], look_every_s: float, plan: Assumed
) -> list[tuple[str, dict[str, Any]]]:
    """(code, facts) of each setting that hurts."""
    found: list[tuple[str, dict[str, Any]]] = []
    by_stream = {one.stream: one for one in measured}
    looked_at: StreamName = "main" if camera.sub is None else "sub"
    for one in measured:
        facts: dict[str, Any] = {"camera": one.camera, "stream": one.stream}
        limit_s = look_every_s if one.stream == looked_at else max(MAIN_GOP_S, look_every_s)
        gop = f"{'> ' if one.gop_open else ''}{one.gop_s:.1f}"
        # A tenth more than the limit is the camera's rounding of frames.
        if one.gop_s > limit_s * 1.1 or (one.gop_open and one.gop_s > limit_s):
            code = "camera.gop_long" if one.stream == looked_at else "camera.gop_long_main"
            found.append((code, {**facts, "gop_s": gop, "limit_s": f"{limit_s:g}", "frames": _frames(one, limit_s)}))
        elif one.gop_shortest_s and one.gop_s > GOP_VARIES * one.gop_shortest_s:
            shortest = f"{one.gop_shortest_s:.1f}"
            found.append(("camera.gop_varies", {**facts, "shortest_s": shortest, "longest_s": gop}))
        if one.b_frames:
            found.append(("camera.b_frames", facts))
        planned_bps = plan.main_bps if one.stream == "main" else plan.sub_bps
        if one.bitrate_bps > OVER_PLAN * planned_bps:
            rates = {"mbps": f"{one.bitrate_bps / 1e6:.1f}", "planned_mbps": f"{planned_bps / 1e6:g}"}
            found.append(("camera.bitrate_high", {**facts, **rates}))
        if one.lost_packets > LOSS * (one.packets + one.lost_packets):
            percent = f"{100 * one.lost_packets / (one.packets + one.lost_packets):.1f}"
            found.append(("camera.losing_packets", {**facts, "percent": percent, "transport": one.transport}))
    offsets = [one.clock_offset_s for one in measured if one.clock_offset_s is not None]
    if offsets and abs(offsets[0]) > CLOCK_OFF_S:
        found.append(("camera.clock_off", {"camera": camera.id, "offset_s": f"{offsets[0]:+.0f}"}))
    if camera.sub is None:
        found.append(("camera.no_sub", {"camera": camera.id}))
    all_seen = "main" in by_stream and (camera.sub is None or "sub" in by_stream)
    if all_seen and not any(one.codec == "h264" for one in measured):
        found.append(("camera.h265_only", {"camera": camera.id}))
    return found


async def _check_camera(
    camera: Camera, file: str, line: int, look_every_s: float, window: Window, plan: Assumed
) -> tuple[list[Measured], list[Problem]]:
    streams: list[tuple[StreamName, SecretUrl]] = [("main", camera.main)]
    if camera.sub is not None:
        streams.append(("sub", camera.sub))
    results = await asyncio.gather(*(_measure(camera, stream, url, window) for stream, url in streams))
    measured = [result for result in results if isinstance(result, Measured)]
    subject = ("camera", camera.id)
    problems: list[Problem] = [
        CameraProblem(file, line, error.code, {key: str(value) for key, value in error.facts.items()}, subject)
        for error in results
        if isinstance(error, SessionError)
    ]
    for code, facts in judge(camera, measured, look_every_s, plan):
        problems.append(CameraProblem(file, line, code, facts, subject, "warning"))
    return measured, problems


async def _measure(camera: Camera, stream: StreamName, url: SecretUrl, window: Window) -> Measured | SessionError:
    """One stream; the error of the last transport that was tried when none brings a picture."""
    if camera.transport == "auto":
        first = await _measure_over("tcp", camera, stream, url, window)
        if isinstance(first, Measured) or first.code not in ("camera.transport_refused", "camera.no_media"):
            return first
        second = await _measure_over("udp", camera, stream, url, window)
        return second if isinstance(second, Measured) else first
    return await _measure_over(camera.transport, camera, stream, url, window)


async def _measure_over(
    transport: Literal["tcp", "udp", "libav"], camera: Camera, stream: StreamName, url: SecretUrl, window: Window
) -> Measured | SessionError:
    tally = _Tally()
    facts = {"camera": camera.id, "stream": stream}
    clock = SystemClock()
    session: RtspSession | LibavSession
    if transport == "libav":
        session = LibavSession(
            url, clock=clock, on_unit=tally.take, camera=camera.id, stream=stream, patience=_PATIENCE
        )
    else:
        session = RtspSession(
            url,
            clock=clock,
            on_unit=tally.take,
            camera=camera.id,
            stream=stream,
            transport=transport,
            patience=_PATIENCE,
        )
    try:
        await session.open()
        ended = asyncio.ensure_future(session.ended())
        enough = asyncio.ensure_future(tally.enough(window, clock.monotonic_s))
        try:
            await asyncio.wait({ended, enough}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
        finally:
            ended.cancel()
            enough.cancel()
        if not session.seen_units:
            waited = f"{window.most_s:g}"
            return SessionError(
                "camera.no_media", **facts, waited_s=waited, transport=transport, packets=session.packets
            )
        if not tally.units:
            waited = f"{window.most_s:g}"
            return SessionError("camera.no_keyframe", **facts, waited_s=waited, why=session.why_no_unit)
        return tally.measured(camera.id, stream, session)
    except SessionError as error:
        return error
    except OSError as error:
        return SessionError("camera.connection_lost", **facts, why=error)
    finally:
        await session.close()


class _Tally:
    """The units of one stream, counted."""

    def __init__(self) -> None:
        self.units = 0
        self._bytes = 0
        self._keys: list[float] = []  # media time of the keyframes, seconds; a new list after a leap
        self._gops: list[float] = []
        self._steps: list[float] = []
        self._first_s = self._last_s = 0.0  # arrivals
        self._media_s = 0.0
        self._last: AccessUnit | None = None
        self._b_frames = False

    def take(self, unit: AccessUnit) -> None:
        media_s = unit.pts_90k / 90_000
        if self._last is None:
            self._first_s = unit.received_s
        elif unit.discontinuity:
            self._keys = []
        elif unit.lost_packets:
            self._keys = []  # a keyframe may be among what is missing
        else:
            self._steps.append((unit.dts_90k - self._last.dts_90k) / 90_000)
        self.units += 1
        self._bytes += len(unit.data)
        self._last, self._last_s, self._media_s = unit, unit.received_s, media_s
        self._b_frames |= unit.format.reorder_depth > 0 and unit.pts_90k != unit.dts_90k
        if unit.is_keyframe:
            if self._keys:
                self._gops.append(media_s - self._keys[-1])
            self._keys.append(media_s)

    async def enough(self, window: Window, monotonic_s: Callable[[], float]) -> None:
        """Until enough was seen to judge by."""
        start_s = monotonic_s()
        while True:
            await asyncio.sleep(0.1)
            watched_s = monotonic_s() - start_s
            if watched_s >= window.most_s or (watched_s >= window.least_s and len(self._gops) >= 2):
                return

    def measured(self, camera: str, stream: StreamName, session: RtspSession | LibavSession) -> Measured:
        last = self._last
        assert last is not None
        open_s = self._media_s - self._keys[-1] if self._keys else 0.0
        longest_s = max([*self._gops, open_s])
        seconds = max(self._last_s - self._first_s, 1e-3)
        mean_s = sum(self._steps) / len(self._steps) if self._steps else None
        place: ParameterSetPlace | None = None
        if isinstance(session, RtspSession) and session.depacketiser is not None:
            in_band = session.depacketiser.in_band_sets > 0
            place = ("both" if session.sdp_sets else "inband") if in_band else "sdp"
        return Measured(
            camera=camera,
            stream=stream,
            transport=session.transport,
            codec=last.format.codec,
            width=last.format.width,
            height=last.format.height,
            fps=1 / mean_s if mean_s else None,
            bitrate_bps=8 * self._bytes / seconds if self.units > 1 else 0.0,
            gop_s=longest_s,
            gop_shortest_s=min(self._gops) if self._gops else None,
            gop_open=not self._gops or open_s > max(self._gops) * 1.1,
            b_frames=self._b_frames,
            clock_offset_s=session.clock_offset_s,
            parameter_sets=place,
            packets=session.packets,
            lost_packets=session.lost_packets,
        )


def _frames(one: Measured, limit_s: float) -> str:
    """How many frames a GOP of the limit has: what a camera's page asks for."""
    return f"{limit_s * one.fps:.0f}" if one.fps else "?"
