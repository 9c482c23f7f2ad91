"""Real H.264 and H.265 for the tests, encoded here, and RTP packets made of it by a packetiser of the tests' own."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np

from ingest.access_unit import AccessUnit, Codec
from ingest.rtsp.depacketiser import Depacketiser, depacketiser_for
from ingest.rtsp.parameter_sets import ParameterSets, split_annex_b
from ingest.rtsp.timeline import Timeline

FPS = 25
TICKS = 90_000 // FPS


@dataclass(frozen=True)
class Frame:
    """One encoded frame: NAL units without start codes, display time in 90 kHz."""

    nals: tuple[bytes, ...]
    pts_90k: int
    is_keyframe: bool


@dataclass(frozen=True)
class Clip:
    codec: Codec
    frames: tuple[Frame, ...]

    @property
    def sets(self) -> list[bytes]:
        """VPS, SPS, PPS of the first keyframe."""
        return [nal for nal in self.frames[0].nals if is_set(self.codec, nal)]

    def sdp(self, *, sets: bool = True, control: str = "track1", payload_type: int = 96) -> str:
        texts = [base64.b64encode(nal).decode() for nal in self.sets]
        if self.codec == "h264":
            name, said = "H264", f"packetization-mode=1;sprop-parameter-sets={','.join(texts)}"
        else:
            name, said = "H265", f"sprop-vps={texts[0]};sprop-sps={texts[1]};sprop-pps={texts[2]}"
        fmtp = f"a=fmtp:{payload_type} {said}\r\n" if sets else ""
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\na=control:*\r\n"
            f"m=video 0 RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {name}/90000\r\n{fmtp}a=control:{control}\r\n"
        )


def is_set(codec: Codec, nal: bytes) -> bool:
    return nal[0] & 0x1F in (7, 8) if codec == "h264" else 32 <= nal[0] >> 1 & 0x3F <= 34


@lru_cache(maxsize=32)
def encode(
    codec: Codec = "h264",
    width: int = 320,
    height: int = 180,
    frames: int = 20,
    gop: int = 10,
    b_frames: int = 0,
    options: tuple[tuple[str, str], ...] = (),
) -> Clip:
    """Moving noise, big enough for fragments."""
    context = av.CodecContext.create("libx264" if codec == "h264" else "libx265", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = Fraction(FPS), Fraction(1, FPS)
    context.max_b_frames = b_frames
    context.gop_size = gop
    context.thread_count = 1
    if codec == "h264":
        chosen = {"preset": "ultrafast", "forced-idr": "1", "bf": str(b_frames)}
        chosen["x264-params"] = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0"
    else:
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0:open-gop=0:log-level=none"
        chosen = {"preset": "ultrafast", "x265-params": params + ":repeat-headers=1:pools=1:frame-threads=1"}
    context.options = {**chosen, **dict(options)}
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 255, (height * 2, width * 2), np.uint8)
    packets = []
    for number in range(frames):
        picture = np.empty((height * 3 // 2, width), np.uint8)
        picture[:height] = noise[number * 3 % height :][:height, number * 5 % width :][:, :width]
        picture[height:] = 128
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    header = split_annex_b(bytes(context.extradata or b""))
    made = []
    for packet in packets:
        nals = split_annex_b(bytes(packet))
        if packet.is_keyframe and not any(is_set(codec, nal) for nal in nals):
            nals = [*[nal for nal in header if is_set(codec, nal)], *nals]
        made.append(Frame(tuple(nals), packet.pts * TICKS, packet.is_keyframe))
    return Clip(codec, tuple(made))


def payloads(codec: Codec, nal: bytes, size: int = 600) -> list[bytes]:
    """A NAL unit as RTP payloads: whole, or FU-A / FU."""
    if len(nal) <= size:
        return [nal]
    if codec == "h264":
        head, kind, body = bytes([nal[0] & 0xE0 | 28]), nal[0] & 0x1F, nal[1:]
    else:
        head, kind, body = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[0] >> 1 & 0x3F, nal[2:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    last = len(pieces) - 1
    return [head + bytes([kind | (i == 0) << 7 | (i == last) << 6]) + piece for i, piece in enumerate(pieces)]


def aggregate(codec: Codec, nals: list[bytes]) -> bytes:
    """STAP-A or AP."""
    body = b"".join(struct.pack(">H", len(nal)) + nal for nal in nals)
    return (b"\x78" if codec == "h264" else b"\x60\x01") + body


def rtp(
    payload: bytes,
    sequence: int,
    time: int,
    *,
    marker: bool = False,
    payload_type: int = 96,
    ssrc: int = 7,
    padding: int = 0,
    extension: bytes | None = None,
    csrcs: int = 0,
) -> bytes:
    first = 0x80 | bool(padding) << 5 | (extension is not None) << 4 | csrcs
    head = (
        struct.pack(">BBHII", first, marker << 7 | payload_type, sequence & 0xFFFF, time & 0xFFFFFFFF, ssrc)
        + b"\0\0\0\1" * csrcs
    )
    if extension is not None:
        head += struct.pack(">HH", 0xABAC, len(extension) // 4) + extension
    tail = bytes(padding - 1) + bytes([padding]) if padding else b""
    return head + payload + tail


def packets(
    clip: Clip, *, first_sequence: int = 0, first_time: int = 0, sets: bool = True, size: int = 600
) -> list[bytes]:
    """All frames of a clip as RTP packets."""
    made: list[bytes] = []
    for frame in clip.frames:
        pieces = [
            piece
            for nal in frame.nals
            if sets or not is_set(clip.codec, nal)
            for piece in payloads(clip.codec, nal, size)
        ]
        for index, piece in enumerate(pieces):
            marker = index == len(pieces) - 1
            made.append(rtp(piece, first_sequence + len(made), first_time + frame.pts_90k, marker=marker))
    return made


def interleaved(packet: bytes, channel: int = 0) -> bytes:
    return struct.pack(">BBH", 0x24, channel, len(packet)) + packet


def make(codec: Codec = "h264", sets: list[bytes] | None = None) -> tuple[Depacketiser, list[AccessUnit]]:
    """A depacketiser and the units that it will have delivered."""
    units: list[AccessUnit] = []
    made: list[Depacketiser] = []
    timeline = Timeline(lambda depth: made[0].sets.observe_reorder(depth))
    timeline.set_wall_offset(1_000_000.0)
    depacketiser = depacketiser_for(96, ParameterSets(codec), timeline, units.append)
    made.append(depacketiser)
    depacketiser.learn(sets or [])
    return depacketiser, units


def feed(depacketiser: Depacketiser, some: list[bytes]) -> None:
    for packet in some:
        depacketiser.packet(packet, 0, len(packet))
        depacketiser.chunk_done()


def decode(units: list[AccessUnit]) -> list[tuple[int, int]]:
    """(width, height) of every frame that the real decoder makes of the units."""
    context = av.CodecContext.create(units[0].format.codec, "r")
    frames = [frame for unit in units for frame in context.decode(av.Packet(unit.data))]
    frames += context.decode(None)
    return [(frame.width, frame.height) for frame in frames]
