"""Reading back what `fmp4` wrote: box by box, up to the first thing that is not whole. Takes hostile bytes.

What lies behind the last whole fragment is torn (a kill, a power loss) and is to be cut off. Whole means: the boxes are
complete, each sample is a chain of lengths that ends exactly where the sample does, and there are no blocks of zeros,
which a power loss may leave in a file that has its full length.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ingest.access_unit import Codec
from ingest.recording.fmp4 import ABOUT_UUID, LOST_UUID, TIMESCALE, shown_for

_NTP_EPOCH_S = 2_208_988_800
_LOST_BLOCK = bytes(512)
_MAX_HEAD_BYTES = 1 << 20
_MAX_FRAGMENT_BYTES = 256 << 20


class BadRecordingError(ValueError):
    """The file has no readable beginning."""


@dataclass(slots=True)
class Fragment:
    """One whole fragment. Times in 90 kHz, `wall_s` of its first sample."""

    offset: int
    size: int
    decode_time: int
    wall_s: float
    durations: list[int]
    sizes: list[int]
    compositions: list[int]
    lost: int
    samples_at: int  # within the fragment's bytes


@dataclass
class Recording:
    """What a file holds. `whole_bytes` is where its last whole fragment ends; `torn_bytes` stand behind it."""

    about: dict[str, Any]
    codec: Codec
    width: int
    height: int
    whole_bytes: int = 0
    torn_bytes: int = 0
    frames: int = 0
    gaps: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    sha256: str = ""  # of the whole part
    fragments: list[Fragment] = field(default_factory=list)  # only when asked for


def scan(file: BinaryIO, *, keep_fragments: bool = False, read: Callable[[int], None] | None = None) -> Recording:
    """Read a segment to its end. `read` is told bytes as they are read, to hold a rate or to stop by raising.

    Raises:
        BadRecordingError: there is no `ftyp` and `moov` of ours at the beginning.
        OSError: the disk does not give the bytes.
    """
    told = read or (lambda _: None)
    digest = hashlib.sha256()
    recording: Recording | None = None
    codec_box: tuple[Codec, int, int] | None = None
    about: dict[str, Any] = {}
    at = 0
    while True:
        if recording is None:
            name, body, size = _head_box(file)
            told(size)
            digest.update(_MDAT.pack(size, name) + body)
            at += size
            if name == b"uuid" and body[:16] == ABOUT_UUID:
                about = _about(body[16:])
            elif name == b"moov":
                codec_box = _sample_entry(body)
                recording = Recording(about, *codec_box, whole_bytes=at)
            elif name != b"ftyp":
                raise BadRecordingError(f"box {name!r} before moov")
            continue
        found = read_fragment(file, at)
        if found is None:
            break
        fragment, data = found
        told(len(data))
        digest.update(data)
        if not recording.frames:
            recording.start_s = fragment.wall_s
        at += fragment.size
        recording.whole_bytes = at
        recording.frames += len(fragment.sizes)
        recording.gaps += bool(fragment.lost)
        shown = shown_for(fragment.durations, fragment.compositions)
        recording.end_s = max(recording.end_s, fragment.wall_s + shown / TIMESCALE)
        if keep_fragments:
            recording.fragments.append(fragment)
    recording.torn_bytes = file.seek(0, 2) - at
    recording.sha256 = digest.hexdigest()
    return recording


def samples(fragment: Fragment, data: bytes) -> Iterator[bytes]:
    """The samples of a fragment (length-prefixed NAL units), in decoding order."""
    at = fragment.samples_at
    for size in fragment.sizes:
        yield data[at : at + size]
        at += size


def read_fragment(file: BinaryIO, at: int) -> tuple[Fragment, bytes] | None:
    """The whole fragment that begins at `at`, or None: the file ends there, or what stands there is not whole."""
    file.seek(at)
    lost, wall_s = 0, None
    parts: list[bytes] = []
    fragment: Fragment | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            return None
        size, name = _MDAT.unpack(head)
        if not 8 <= size <= _MAX_FRAGMENT_BYTES:
            return None
        body = file.read(size - 8)
        if len(body) < size - 8:
            return None
        parts += [head, body]
        if name == b"uuid" and body[:16] == LOST_UUID and len(body) >= 20:
            lost = int.from_bytes(body[16:20])
        elif name == b"prft" and len(body) >= 24:
            wall_s = int.from_bytes(body[8:16]) / 4_294_967_296 - _NTP_EPOCH_S
        elif name == b"moof" and fragment is None and wall_s is not None:
            try:
                fragment = _moof(body, at, wall_s, lost)
            except (struct.error, ValueError):
                return None
        elif name == b"mdat" and fragment is not None:
            data = b"".join(parts)
            fragment.size = len(data)
            fragment.samples_at = len(data) - len(body)
            return (fragment, data) if _chains_close(fragment, data) else None
        else:
            return None


def _chains_close(fragment: Fragment, data: bytes) -> bool:
    # No NAL unit holds more than two zeros in a row (emulation prevention) or ends with them; lost blocks do.
    if data.find(_LOST_BLOCK, fragment.samples_at) >= 0 or data.endswith(b"\0\0"):
        return False
    at = fragment.samples_at
    for size in fragment.sizes:
        end = at + size
        while at < end:
            length = int.from_bytes(data[at : at + 4])
            if length == 0:
                return False
            at += 4 + length
        if at != end:
            return False
    return at == len(data)


def _moof(body: bytes, offset: int, wall_s: float, lost: int) -> Fragment:
    at = 16  # behind mfhd
    size, name = _MDAT.unpack_from(body, at)
    if name != b"traf" or at + size != len(body):
        raise ValueError("no traf")
    at += 8 + 16  # and behind tfhd
    (decode_time,) = struct.unpack_from(">12xQ", body, at)
    at += 20
    _, name, flags, count, _ = struct.unpack_from(">I4sIIi", body, at)
    if name != b"trun" or not count:
        raise ValueError("no trun")
    at += 20
    width = 4 if flags & 0x800 else 3
    values = struct.unpack_from(f">{count * width}I", body, at)
    compositions = [(v ^ 0x8000_0000) - 0x8000_0000 for v in values[3::4]] if width == 4 else [0] * count
    return Fragment(
        offset, 0, decode_time, wall_s, list(values[0::width]), list(values[1::width]), compositions, lost, 0
    )


def _head_box(file: BinaryIO) -> tuple[bytes, bytes, int]:
    head = file.read(8)
    if len(head) < 8:
        raise BadRecordingError("ends before moov")
    size, name = _MDAT.unpack(head)
    if not 8 <= size <= _MAX_HEAD_BYTES:
        raise BadRecordingError(f"box of {size} bytes")
    body = file.read(size - 8)
    if len(body) < size - 8:
        raise BadRecordingError("ends before moov is complete")
    return name, body, size


def _about(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sample_entry(moov: bytes) -> tuple[Codec, int, int]:
    for name, codec in ((b"avc1", "h264"), (b"hvc1", "hevc")):
        at = moov.find(name)
        if at >= 0 and len(moov) >= at + 32:
            width, height = struct.unpack_from(">HH", moov, at + 4 + 24)
            return cast(Codec, codec), width, height
    raise BadRecordingError("no video track of ours")


_MDAT = struct.Struct(">I4s")
