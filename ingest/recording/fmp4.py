"""Fragmented MP4 (ISO/IEC 14496-12) of one video track, made without re-encoding: an init part, then fragments. Pure.

A fragment is `[uuid] prft moof mdat` in one buffer, so that one write puts all of it on disk. Sample entries are `avc1`
and `hvc1` (ISO/IEC 14496-15) with 4-byte lengths, which take the place of the 4-byte start codes of Annex B: nothing is
moved. Parameter sets stand in the sample entry and, as the camera link puts them there, before every keyframe.

The timescale is the RTP clock's 90 kHz. An audio track would be a second `trak` in `init_segment` and a second `traf`
in `fragment`; the camera link delivers no audio yet.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ingest.access_unit import AccessUnit, StreamFormat
from ingest.rtsp.bits import BitReader, BitsError

TIMESCALE = 90_000
ABOUT_UUID = bytes.fromhex("d3a5c1f08e4b4f6c9a1e67726964776f")
"""Box `uuid` beside `moov`: JSON that says what is recorded."""
LOST_UUID = bytes.fromhex("d3a5c1f08e4b4f6c9a1e67726964776c")
"""Box `uuid` in front of a fragment in which packets are missing: how many, 32 bits."""

_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970
_KEY, _NO_KEY = 0x0200_0000, 0x0101_0000  # depends on nothing; depends on others and is no sync sample
_CAPTURED = 24  # prft: the time of capture by a real-time source
_PRFT = struct.Struct(">I4sIIQQ")  # prft version 1
_MOOF = struct.Struct(">I4sI4sIII4sI4sIII4sIQI4sIIi")
_MDAT = struct.Struct(">I4s")
_LOST = struct.Struct(">I4s16sI")
_LENGTH = struct.Struct(">I")
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class Sample(NamedTuple):
    """One access unit with what its place in the file needs; times in 90 kHz."""

    unit: AccessUnit
    duration: int
    composition: int  # pts - dts; below 0 for pictures that stand before an open keyframe


def fragment(sequence: int, decode_time: int, wall_s: float, samples: Sequence[Sample], lost: int = 0) -> bytearray:
    """The bytes of one fragment. `decode_time` is the first sample's, from 0 at the segment's start.

    `wall_s` is the first sample's time of capture (UTC seconds since the epoch), `lost` the packets missing in it.
    """
    values: list[int] = []
    reordered = False
    data_bytes = 0
    parts: list[bytes] = [b""]
    for unit, duration, composition in samples:
        data = unit.data
        parts.append(data)
        size = len(data)
        data_bytes += size
        values += (duration, size, _KEY if unit.is_keyframe else _NO_KEY, composition & 0xFFFF_FFFF)
        reordered |= composition != 0
    count = len(samples)
    if reordered:
        flags = 0x0100_0F01
    else:
        del values[3::4]
        flags = 0x0000_0701
    trun = 20 + 4 * len(values)
    traf = 8 + 16 + 20 + trun
    moof = 8 + 16 + traf
    media_time = decode_time + samples[0].composition
    ntp = int((wall_s + _NTP_EPOCH_S) * 4_294_967_296)
    head = _LOST.pack(28, b"uuid", LOST_UUID, lost) if lost else b""
    head += _PRFT.pack(32, b"prft", 0x0100_0000 | _CAPTURED, 1, ntp, max(0, media_time))
    head += _MOOF.pack(
        moof, b"moof",
        16, b"mfhd", 0, sequence,
        traf, b"traf",
        16, b"tfhd", 0x0002_0000, 1,
        20, b"tfdt", 0x0100_0000, decode_time,
        trun, b"trun", flags, count, moof + 8,
    )  # fmt: skip
    head += struct.pack(f">{len(values)}I", *values) + _MDAT.pack(8 + data_bytes, b"mdat")
    parts[0] = head
    whole = bytearray().join(parts)
    at = len(head)
    pack_into = _LENGTH.pack_into
    for unit, _, _ in samples:
        offsets = unit.nal_offsets
        size = len(unit.data)
        if len(offsets) == 1:
            pack_into(whole, at, size - 4)
        else:
            end = size
            for offset in reversed(offsets):
                pack_into(whole, at + offset, end - offset - 4)
                end = offset
        at += size
    return whole


def shown_for(durations: Sequence[int], compositions: Sequence[int]) -> int:
    """From the display of the first sample to the end of the last that is displayed, 90 kHz."""
    at = 0
    newest = None
    for duration, composition in zip(durations, compositions, strict=True):
        shown = at + composition
        newest = shown if newest is None or shown > newest else newest
        at += duration
    assert newest is not None
    return newest - compositions[0] + durations[-1]


def init_segment(form: StreamFormat, keyframe: AccessUnit, about: dict[str, Any]) -> bytes:
    """`ftyp`, `uuid` with `about` as JSON, `moov`. Parameter sets are taken from `keyframe`, which has them all."""
    brand = b"iso6" + struct.pack(">I", 1) + b"iso6iso5mp41" + (b"avc1" if form.codec == "h264" else b"hvc1")
    return (
        _box(b"ftyp", brand)
        + _box(b"uuid", ABOUT_UUID, json.dumps(about, ensure_ascii=True, separators=(",", ":")).encode())
        + _moov(form, _sets(form, keyframe))
    )


def _moov(form: StreamFormat, sets: dict[int, list[bytes]]) -> bytes:
    mvhd = _full(b"mvhd", 0, 0, struct.pack(">IIIIIHH8x", 0, 0, TIMESCALE, 0, 0x10000, 0x100, 0) + _MATRIX + bytes(24) + struct.pack(">I", 2))  # fmt: skip  # noqa: E501
    size = struct.pack(">II", form.width << 16, form.height << 16)
    tkhd = _full(b"tkhd", 0, 3, struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, 0, 0, 0, 0, 0) + _MATRIX + size)
    mdhd = _full(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, TIMESCALE, 0, 0x55C4, 0))
    hdlr = _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide") + b"video\0")
    tables = b"".join(_full(name, 0, 0, bytes(size)) for name, size in ((b"stts", 4), (b"stsc", 4), (b"stco", 4)))
    stsd = _full(b"stsd", 0, 0, struct.pack(">I", 1) + _sample_entry(form, sets))
    stbl = _box(b"stbl", stsd, tables, _full(b"stsz", 0, 0, bytes(8)))
    dinf = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1) + _full(b"url ", 0, 1, b"")))
    minf = _box(b"minf", _full(b"vmhd", 0, 1, bytes(8)), dinf, stbl)
    trak = _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf))
    trex = _full(b"trex", 0, 0, struct.pack(">IIIII", 1, 1, 0, 0, 0))
    return _box(b"moov", mvhd, trak, _box(b"mvex", trex))


def _sample_entry(form: StreamFormat, sets: dict[int, list[bytes]]) -> bytes:
    picture = struct.pack(">6xH16xHHIIIH32xHh", 1, form.width, form.height, 0x480000, 0x480000, 0, 1, 0x18, -1)
    if form.codec == "h264":
        return _box(b"avc1", picture, _box(b"avcC", _avc_config(sets)))
    return _box(b"hvc1", picture, _box(b"hvcC", _hevc_config(sets)))


def _sets(form: StreamFormat, keyframe: AccessUnit) -> dict[int, list[bytes]]:
    """NAL unit type -> the parameter sets of that type in the keyframe, else the format's."""
    wanted = (7, 8) if form.codec == "h264" else (32, 33, 34)
    found: dict[int, list[bytes]] = {kind: [] for kind in wanted}
    data, offsets = keyframe.data, keyframe.nal_offsets
    for start, end in zip(offsets, (*offsets[1:], len(data)), strict=True):
        nal = data[start + 4 : end]
        kind = (nal[0] & 0x1F if form.codec == "h264" else nal[0] >> 1 & 0x3F) if nal else -1
        if kind in found and nal not in found[kind]:
            found[kind].append(nal)
    for kind, known in zip(wanted, (form.sps, form.pps) if form.codec == "h264" else (form.vps, form.sps, form.pps), strict=True):  # fmt: skip  # noqa: E501
        if not found[kind] and known:
            found[kind] = [known]
    return found


def _avc_config(sets: dict[int, list[bytes]]) -> bytes:
    """AVCDecoderConfigurationRecord, ISO/IEC 14496-15 5.3.3.1."""
    all_sps, all_pps = sets[7], sets[8]
    sps = all_sps[0]
    record = bytes((1, sps[1], sps[2], sps[3], 0xFF, 0xE0 | len(all_sps))) + _counted(all_sps)
    record += bytes((len(all_pps),)) + _counted(all_pps)
    if sps[1] in (100, 110, 122, 144):
        chroma, luma_bits, chroma_bits = 1, 0, 0
        try:
            r = BitReader(sps[4:])
            r.ue()
            chroma = r.ue()
            if chroma == 3:
                r.skip(1)
            luma_bits, chroma_bits = r.ue(), r.ue()
        except BitsError:
            pass  # the usual 4:2:0 of 8 bits; decoders read the SPS itself
        record += bytes((0xFC | chroma & 3, 0xF8 | luma_bits & 7, 0xF8 | chroma_bits & 7, 0))
    return record


def _hevc_config(sets: dict[int, list[bytes]]) -> bytes:
    """HEVCDecoderConfigurationRecord, ISO/IEC 14496-15 8.3.3.1."""
    r = BitReader(sets[33][0][2:])
    r.skip(4)
    sub_layers = r.u(3)
    nested = r.u(1)
    general = bytes(r.u(8) for _ in range(12))
    present = [(r.u(1), r.u(1)) for _ in range(sub_layers)]
    if sub_layers:
        r.skip(2 * (8 - sub_layers))
    for profile, level in present:
        r.skip(88 * profile + 8 * level)
    r.ue()
    chroma = r.ue()
    if chroma == 3:
        r.skip(1)
    r.ue()
    r.ue()
    if r.u(1):
        for _ in range(4):
            r.ue()
    luma_bits, chroma_bits = r.ue(), r.ue()
    record = b"\x01" + general + struct.pack(">HBBBBH", 0xF000, 0xFC, 0xFC | chroma & 3, 0xF8 | luma_bits & 7, 0xF8 | chroma_bits & 7, 0)  # fmt: skip  # noqa: E501
    record += bytes(((sub_layers + 1 & 7) << 3 | nested << 2 | 3, 3))
    for kind in (32, 33, 34):
        record += struct.pack(">BH", 0x80 | kind, len(sets[kind])) + _counted(sets[kind])
    return record


def _counted(nals: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(nal)) + nal for nal in nals)


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return _MDAT.pack(8 + len(body), name) + body


def _full(name: bytes, version: int, flags: int, body: bytes) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags), body)
