"""A camera link keeps one stream of one camera alive for ever, and knows how it is.

Life: `CameraLink(...)`, `start()`, units appear in `fanout`, `await stop()`. Within: open a session when the gate
gives a turn, watch it, tear it down when it stalls or ends, wait, again.

States (`ingest.health.CameraState`): waiting -> connecting -> live; what goes wrong is shown as its state with the
reason, and stays shown through the retries until frames come again or the reason changes. Stalled is
max(`STALL_S`, three usual frame intervals) without a complete picture.

Waiting between tries: exponential with jitter, at most 3 s in the first five minutes of a loss, then 30 s. A refused
login is retried once a minute (cameras lock accounts), a session limit from 10 s upward.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from ingest.access_unit import AccessUnit, StreamName
from ingest.clock import Clock
from ingest.connect_gate import ConnectGate
from ingest.fanout import Fanout
from ingest.health import CameraState, StreamHealth
from ingest.rtsp import RtspSession, SessionError
from ingest.rtsp.libav import LibavSession
from ingest.secret import SecretUrl

log = logging.getLogger(__name__)

Transport = Literal["auto", "tcp", "udp", "libav"]

STALL_S = 5.0
USUAL_INTERVALS = 3
FIRST_PICTURE_S = 10.0
FIRST_KEYFRAME_S = 60.0
FIRST_PAUSE_S = 0.25
FRESH_S = 300.0
FRESH_CAP_S = 3.0
OLD_CAP_S = 30.0
UNAUTHORISED_PAUSE_S = 60.0
SESSION_LIMIT_PAUSE_S = 10.0
SESSION_LIMIT_CAP_S = 60.0
SETTLED_S = 10.0  # a session that lived this long starts the back-off anew
UDP_LOSS = 0.005
UDP_LOSS_PACKETS = 2000
_TICK_S = 2.0
_FIRST_TICK_S = 0.25
_SAMPLES = 6
_MEDIA_RATE_OVER_S = 6.0


class CameraLink:
    """`on_state` is told every change of state or reason, from the event loop; it must be quick."""

    def __init__(
        self,
        camera_id: str,
        stream: StreamName,
        url: SecretUrl,
        *,
        clock: Clock,
        gate: ConnectGate,
        fanout: Fanout | None = None,
        transport: Transport = "auto",
        on_state: Callable[[StreamHealth], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.camera_id = camera_id
        self.stream: StreamName = stream
        self.fanout = fanout or Fanout(f"{camera_id}/{stream}")
        self._url = url
        self._clock = clock
        self._gate = gate
        self._transport: Transport = transport
        self._kind: Literal["tcp", "udp", "libav"] = "tcp" if transport == "auto" else transport
        self._tcp_refused = False
        self._on_state = on_state
        self._rng = rng or random.Random()  # noqa: S311 (jitter)
        self._task: asyncio.Task[None] | None = None
        self._session: RtspSession | LibavSession | None = None
        self._state = CameraState.WAITING
        self._reason: SessionError | None = None
        self._since = clock.now()
        self._lost_since_s: float | None = None
        self._tries = 0
        self._silent = False
        self._lives = 0
        self._live_since_s = 0.0
        # Measured
        self._usual_s: float | None = None
        self._gop_s: float | None = None
        self._last_dts = 0
        self._last_key_pts: int | None = None
        self._last_unit: AccessUnit | None = None
        self._last_key: AccessUnit | None = None
        self._clock_offset_s: float | None = None
        self._ended_frames = self._ended_bytes = self._ended_lost = 0
        self._jitter_s: float | None = None
        self._gaps = 0
        self._last_error: tuple[SessionError, datetime] | None = None
        self._samples: deque[tuple[float, int, int, float | None]] = deque(maxlen=_SAMPLES)
        self._verdict: asyncio.Future[SessionError] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opened_s = 0.0

    @property
    def state(self) -> CameraState:
        """The state as operators see it."""
        return self._state

    @property
    def reason(self) -> SessionError | None:
        """Why the state is not live."""
        return self._reason

    def start(self) -> None:
        """Begin, and never give up until `stop`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"link {self.camera_id}/{self.stream}")
            self._task.add_done_callback(self._on_done)

    async def stop(self) -> None:
        """Tear the session down and close the fan-out."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._enter(CameraState.STOPPED, None)
        self.fanout.close()

    def health(self) -> StreamHealth:
        """A snapshot; counters only grow."""
        form = self._last_unit.format if self._last_unit else None
        session = self._session
        frames, media_bytes, lost = self._counters(session)
        fps, bitrate_bps, media_rate = self._rates()
        error, error_at = self._last_error or (None, None)
        live = self._state is CameraState.LIVE
        return StreamHealth(
            camera_id=self.camera_id,
            stream=self.stream,
            state=self._state,
            reason_code=self._reason.code if self._reason else None,
            reason_facts=_facts(self._reason),
            since=self._since,
            fps=fps if live else None,
            bitrate_bps=bitrate_bps if live else None,
            gop_s=self._gop_s,
            width=form.width if form else None,
            height=form.height if form else None,
            codec=form.codec if form else None,
            frames=self._ended_frames + frames,
            bytes=self._ended_bytes + media_bytes,
            lost_packets=self._ended_lost + lost,
            reconnects=max(0, self._lives - 1),
            last_frame_at=_at(self._last_unit),
            last_keyframe_at=_at(self._last_key),
            dropped_units=self.fanout.dropped_units,
            clock_offset_s=session.clock_offset_s if session else self._clock_offset_s,
            jitter_ms=self._jitter_s * 1000 if live and self._jitter_s is not None else None,
            gaps=self._gaps,
            media_rate=media_rate if live else None,
            last_error_code=error.code if error else None,
            last_error_facts=_facts(error),
            last_error_at=error_at,
        )

    # the endless loop

    async def _run(self) -> None:
        self._lost_since_s = self._clock.monotonic_s()
        while True:
            why = await self._try()
            pause_s = self._after(why)
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    async def _try(self) -> SessionError:
        """One session from connect to loss; returns why it ended."""
        session: RtspSession | LibavSession | None = None
        try:
            async with self._gate.turn(silent=self._silent) as patience:
                if self._state is CameraState.WAITING:
                    self._enter(CameraState.CONNECTING, None)
                if self._kind == "libav":
                    session = LibavSession(
                        self._url,
                        clock=self._clock,
                        on_unit=self._on_unit,
                        camera=self.camera_id,
                        stream=self.stream,
                        patience=patience,
                    )
                else:
                    session = RtspSession(
                        self._url,
                        clock=self._clock,
                        on_unit=self._on_unit,
                        camera=self.camera_id,
                        stream=self.stream,
                        transport=self._kind,
                        patience=patience,
                    )
                self._session = session
                self._samples.clear()
                await session.open()
            self._silent = False
            return await self._watch(session)
        except SessionError as error:
            return error
        except OSError as error:
            # No UDP ports or file descriptors left on this side.
            return SessionError("camera.connection_lost", camera=self.camera_id, stream=self.stream, why=error)
        finally:
            if session is not None:
                self._settle(session)
                await session.close()

    async def _watch(self, session: RtspSession | LibavSession) -> SessionError:
        verdict: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()
        self._verdict = verdict
        self._opened_s = self._clock.monotonic_s()
        ended = asyncio.create_task(session.ended(), name=f"end of {self.camera_id}/{self.stream}")
        ended.add_done_callback(self._on_ended)
        self._tick(session)
        try:
            return await verdict
        finally:
            ended.cancel()
            self._verdict = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _on_ended(self, ended: asyncio.Task[SessionError]) -> None:
        if self._verdict is not None and not self._verdict.done() and not ended.cancelled():
            error = ended.exception()
            if error is not None:
                self._verdict.set_exception(error)
            else:
                self._verdict.set_result(ended.result())

    def _tick(self, session: RtspSession | LibavSession) -> None:
        """Every two seconds, and exactly when a stall is due: measure, and judge whether frames still come."""
        verdict = self._verdict
        if verdict is None or verdict.done():
            return
        now_s = self._clock.monotonic_s()
        session.sample_wall()
        last = self._last_unit
        media_s = last.dts_90k / 90_000 if last is not None and session.units else None
        if session.seen_units:
            self._samples.append((now_s, session.seen_units, session.media_bytes, media_s))
        why, due_s = self._judge(session, now_s)
        if why is not None:
            # Shown at once: tearing down a dead connection takes its own while.
            self._enter(why.state, why)
            verdict.set_result(why)
            return
        pause_s = _TICK_S if self._state is CameraState.LIVE else _FIRST_TICK_S
        pause_s = max(0.001, min(pause_s, due_s - now_s))
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._tick, session)

    def _judge(self, session: RtspSession | LibavSession, now_s: float) -> tuple[SessionError | None, float]:
        """(why the session must end or None, when to look again at the latest)."""
        facts = {"camera": self.camera_id, "stream": self.stream}
        if not session.seen_units:
            due_s = self._opened_s + FIRST_PICTURE_S
            if now_s < due_s:
                return None, due_s
            waited = f"{FIRST_PICTURE_S:g}"
            packets = session.packets
            return SessionError(
                "camera.no_media", **facts, waited_s=waited, transport=session.transport, packets=packets
            ), due_s
        if self._state is not CameraState.LIVE:
            self._enter_live()
        limit_s = max(STALL_S, USUAL_INTERVALS * (self._usual_s or 0.0))
        due_s = max(session.last_unit_s, self._opened_s) + limit_s
        if now_s >= due_s:
            usual = f"{self._usual_s:.2f}" if self._usual_s else "?"
            return SessionError("camera.stalled", **facts, waited_s=f"{limit_s:g}", usual_s=usual), due_s
        if not session.units and now_s >= self._opened_s + FIRST_KEYFRAME_S:
            why = session.why_no_unit
            return SessionError("camera.no_keyframe", **facts, waited_s=f"{FIRST_KEYFRAME_S:g}", why=why), due_s
        packets, lost = session.packets, session.lost_packets
        if self._transport == "auto" and self._kind == "udp" and not self._tcp_refused and packets > UDP_LOSS_PACKETS:
            share = lost / (lost + packets)
            if share > UDP_LOSS:
                return SessionError("camera.udp_loss", **facts, percent=f"{share * 100:.1f}"), due_s
        return None, due_s

    def _after(self, why: SessionError) -> float:
        """Show why, choose the next transport, and say how long to wait, in seconds."""
        if self._state is CameraState.LIVE:
            self._lost_since_s = self._clock.monotonic_s()
        if self._lives and self._clock.monotonic_s() - self._live_since_s >= SETTLED_S and self._live_since_s:
            self._tries = 0
        self._live_since_s = 0.0
        self.fanout.forget_gop()
        self._last_key_pts = None
        was_silent, self._silent = self._silent, why.code in ("camera.unreachable", "camera.no_answer")
        self._enter(why.state, why)
        if self._silent and not was_silent and not self._lives:
            return 0.0  # the main pool has little patience: ask once more in the other one before waiting
        if self._transport == "auto" and self._next_transport(why):
            return 0.0
        return self._pause_s(why)

    def _next_transport(self, why: SessionError) -> bool:
        """Automatic choice: TCP; UDP when TCP is refused or stays empty; back when UDP does no better."""
        if self._kind == "tcp":
            if why.code == "camera.transport_refused":
                self._kind, first = "udp", not self._tcp_refused
                self._tcp_refused = True
                return first
            if why.code == "camera.no_media" and why.facts.get("packets") == 0:
                self._kind = "udp"
                return False
        elif why.code == "camera.udp_loss":
            self._kind = "tcp"
            return True
        elif why.code in ("camera.no_media", "camera.transport_refused"):
            self._kind = "tcp"
        return False

    def _pause_s(self, why: SessionError) -> float:
        tries = self._tries
        self._tries += 1
        if why.state is CameraState.UNAUTHORISED:
            return UNAUTHORISED_PAUSE_S
        if why.state is CameraState.SESSION_LIMIT:
            limit_s: float = min(SESSION_LIMIT_CAP_S, SESSION_LIMIT_PAUSE_S * 2 ** min(tries, 4))
            return limit_s * self._jitter()
        lost_s = self._clock.monotonic_s() - (self._lost_since_s or 0.0)
        cap_s = FRESH_CAP_S if lost_s < FRESH_S else OLD_CAP_S
        pause_s: float = FIRST_PAUSE_S * 2 ** min(tries, 10)
        return min(cap_s, pause_s * self._jitter())

    def _jitter(self) -> float:
        return self._rng.uniform(0.7, 1.3)

    # facts

    def _on_unit(self, unit: AccessUnit) -> None:
        last = self._last_unit
        if not unit.discontinuity and last is not None:
            step_s = (unit.dts_90k - last.dts_90k) / 90_000
            jitter_s = self._jitter_s or 0.0
            off_s = abs(unit.received_s - last.received_s - step_s)
            self._jitter_s = jitter_s + (off_s - jitter_s) / 16
            if 0 < step_s < 60:
                usual_s = self._usual_s
                self._usual_s = step_s if usual_s is None else usual_s + (step_s - usual_s) * 0.1
        if unit.lost_packets:
            self._gaps += 1
        if unit.is_keyframe:
            if self._last_key_pts is not None and not unit.discontinuity:
                self._gop_s = (unit.pts_90k - self._last_key_pts) / 90_000
            self._last_key_pts = unit.pts_90k
            self._last_key = unit
        self._last_unit = unit
        if self._state is not CameraState.LIVE:
            self._enter_live()
        self.fanout.publish(unit)

    def _enter_live(self) -> None:
        self._lives += 1
        self._live_since_s = self._clock.monotonic_s()
        self._enter(CameraState.LIVE, None)

    def _enter(self, state: CameraState, reason: SessionError | None) -> None:
        changed = state is not self._state
        code, before = reason.code if reason else None, self._reason.code if self._reason else None
        self._reason = reason
        if reason is not None:
            self._last_error = reason, self._clock.now()
        if not changed and code == before:
            return
        if changed:
            self._since = self._clock.now()
            self._state = state
        facts = {"camera": self.camera_id, "stream": self.stream, "state": state.value}
        if reason is not None:
            facts["why"] = str(reason)
        log.debug("camera state", extra=facts)  # what people should read of it is `ingest.state_log`'s choice
        if self._on_state is not None:
            self._on_state(self.health())

    def _settle(self, session: RtspSession | LibavSession) -> None:
        """Add an ended session's counters to the link's."""
        frames, media_bytes, lost = self._counters(session)
        self._ended_frames += frames
        self._ended_bytes += media_bytes
        self._ended_lost += lost
        self._clock_offset_s = session.clock_offset_s
        self._session = None

    @staticmethod
    def _counters(session: RtspSession | LibavSession | None) -> tuple[int, int, int]:
        return (session.seen_units, session.media_bytes, session.lost_packets) if session else (0, 0, 0)

    def _rates(self) -> tuple[float | None, float | None, float | None]:
        """(frames, bits, seconds of media time) a second over the last ten seconds."""
        session = self._session
        if session is None or not self._samples:
            return None, None, None
        start_s, frames, media_bytes, start_media_s = self._samples[0]
        elapsed_s = self._clock.monotonic_s() - start_s
        if elapsed_s < 1.0:
            return None, None, None
        media_s = self._samples[-1][3]
        span_s = self._samples[-1][0] - start_s
        media_rate = None
        if media_s is not None and start_media_s is not None and span_s >= _MEDIA_RATE_OVER_S:
            media_rate = (media_s - start_media_s) / span_s
        bits = (session.media_bytes - media_bytes) * 8
        return (session.seen_units - frames) / elapsed_s, bits / elapsed_s, media_rate

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("camera link failed", exc_info=task.exception(), extra={"camera": self.camera_id})


def _facts(reason: SessionError | None) -> dict[str, str]:
    return {key: str(value) for key, value in reason.facts.items()} if reason else {}


def _at(unit: AccessUnit | None) -> datetime | None:
    return datetime.fromtimestamp(unit.wall_s, UTC) if unit else None
