"""One viewer of one live stream: from its offer to its end, and all open viewers together.

States: answering -> connecting (10 s at most) -> playing -> ended. A session ends by DELETE, by the browser closing its
side, by loss of consent (ICE, about 30 s) or of RTCP (15 s), by a stream that turns unplayable, or with the process.
Whatever ends it, its share of the source is given back exactly once, and the reason is counted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from dataclasses import dataclass

import aiortc

from command.wall.live_source import LiveSource, LiveSources
from command.wall.negotiate import add_video, answer_offer, read_offer
from command.wall.rtp_sender import PassThroughSender
from ingest.clock import Clock
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WhepLimits:
    """What bounds the media process.

    `addresses` are the only ones that ICE listens on; loopback until accounts exist.
    """

    max_sessions: int = 64
    first_picture_within_s: float = 5.0
    connect_within_s: float = 10.0
    silent_after_s: float = 15.0
    linger_s: float = 30.0  # how long a stream without a picture yet stays open for the viewer's next attempt
    addresses: tuple[str, ...] = ("127.0.0.1",)


class WhepSession:
    """One viewer. Made by `WhepSessions.start`; `answer_sdp` is what its POST returns."""

    def __init__(self, session_id: str, source: LiveSource, peer: aiortc.RTCPeerConnection, began_s: float) -> None:
        self.id = session_id
        self.source = source
        self.peer = peer
        self.began_s = began_s
        self.answer_sdp = ""
        self.sender: PassThroughSender | None = None
        self.connect_timer: asyncio.TimerHandle | None = None
        self.ending: asyncio.Task[None] | None = None

    def stats(self, now_s: float) -> dict[str, object]:
        """Facts for `/stats`."""
        facts: dict[str, object] = {
            "id": self.id,
            "camera": self.source.camera,
            "stream": self.source.stream,
            "state": self.peer.connectionState,
            "age_s": round(now_s - self.began_s, 1),
        }
        if self.sender is not None:
            facts |= {
                "packets": self.sender.packets,
                "bytes": self.sender.bytes,
                "retransmitted": self.sender.retransmitted,
                "fraction_lost": self.sender.fraction_lost,
                "keyframe_requests": self.sender.keyframe_requests,
                "replays": self.sender.replays,
                "dropped_units": self.sender.dropped_units,
            }
        return facts


class WhepSessions:
    """All viewers of this process, with the counters of those that are gone."""

    def __init__(self, sources: LiveSources, clock: Clock, limits: WhepLimits) -> None:
        self.limits = limits
        self.started = 0
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._sources = sources
        self._clock = clock
        self._sessions: dict[str, WhepSession] = {}
        self._answering = 0
        self._closing = False

    async def start(self, camera: str, stream: str, offer_sdp: str) -> WhepSession:
        """Answer an offer for a live stream.

        Raises:
            GridwatchError: codes `wall.*` of `command/messages/wall.toml`, or the ingest worker's own.
        """
        try:
            return await self._start(camera, stream, offer_sdp)
        except GridwatchError as error:
            self.refused[error.code] += 1
            raise

    async def _start(self, camera: str, stream: str, offer_sdp: str) -> WhepSession:
        if self._closing or len(self._sessions) + self._answering >= self.limits.max_sessions:
            raise GridwatchError("wall.full", limit=self.limits.max_sessions, camera=camera)
        bare_offer = read_offer(offer_sdp, camera)
        self._answering += 1
        source = self._sources.acquire(camera, stream)
        peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        answered = False
        linger_s = 0.0
        try:
            stream_format = await source.playable_format(self.limits.first_picture_within_s)
            session = WhepSession(secrets.token_urlsafe(18), source, peer, self._clock.monotonic_s())
            session.sender = add_video(
                peer,
                stream_format.profile_level_id,
                lambda transport: PassThroughSender(
                    source, transport, lambda reason: self._end_soon(session, reason), self.limits.silent_after_s
                ),
            )
            session.answer_sdp = await answer_offer(peer, bare_offer, camera, self.limits.addresses)
            answered = True
        except GridwatchError as error:
            if error.code == "wall.not_live" and source.viewers == 1:
                linger_s = self.limits.linger_s
            raise
        finally:
            self._answering -= 1
            if not answered:
                await peer.close()
                if linger_s:
                    self._sources.release_later(source, linger_s)
                else:
                    await self._sources.release(source)
        self._sessions[session.id] = session
        self.started += 1
        self._watch(session)
        return session

    async def end(self, session_id: str, reason: str = "viewer_left") -> bool:
        """End a session; False when there is none of that id (any more)."""
        session = self._sessions.get(session_id)
        if session is None:
            return False
        await self._end_soon(session, reason)
        return True

    async def close(self) -> None:
        """End all sessions; none can start any more."""
        self._closing = True
        await asyncio.gather(*(self._end_soon(session, "server_stopped") for session in list(self._sessions.values())))

    def stats(self) -> dict[str, object]:
        """Facts for `/stats`."""
        now_s = self._clock.monotonic_s()
        return {
            "limit": self.limits.max_sessions,
            "started": self.started,
            "refused": dict(self.refused),
            "ended": dict(self.ended),
            "sessions": [session.stats(now_s) for session in self._sessions.values()],
        }

    def _watch(self, session: WhepSession) -> None:
        def connect_state_changed() -> None:
            state = session.peer.connectionState
            if state == "connected" and session.connect_timer is not None:
                session.connect_timer.cancel()
            elif state in ("failed", "closed"):
                self._end_soon(session, f"peer_{state}")

        session.connect_timer = asyncio.get_running_loop().call_later(
            self.limits.connect_within_s, self._connect_deadline, session
        )
        session.peer.on("connectionstatechange", connect_state_changed)
        connect_state_changed()

    def _connect_deadline(self, session: WhepSession) -> None:
        if session.peer.connectionState != "connected":
            self._end_soon(session, "never_connected")

    def _end_soon(self, session: WhepSession, reason: str) -> asyncio.Task[None]:
        """The one task that ends a session, whoever asks first."""
        if session.ending is None:
            session.ending = asyncio.create_task(self._end(session, reason), name=f"end whep {session.id}")
        return session.ending

    async def _end(self, session: WhepSession, reason: str) -> None:
        self._sessions.pop(session.id, None)
        self.ended[reason] += 1
        if session.connect_timer is not None:
            session.connect_timer.cancel()
        log.info("viewer ended", extra={"camera": session.source.camera, "session": session.id, "reason": reason})
        try:
            await session.peer.close()
        finally:
            await self._sources.release(session.source)
