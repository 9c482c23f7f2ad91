"""Sequence parameter sets of H.264 (7.3.2.1.1, annex E) and H.265 (7.3.2.2, annex E): size, reorder depth, timing.

Pure. The size must be readable; a broken or missing VUI only costs the facts behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.rtsp.bits import BitReader, BitsError

MAX_SPS_BYTES = 4096
_MIN_SIDE, _MAX_SIDE = 8, 16384
_H264_HIGH = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


@dataclass(frozen=True, slots=True)
class SpsFacts:
    """`reorder_depth` is None when the SPS does not say (then it is observed); `fps` is a claim, never a duration."""

    width: int
    height: int
    reorder_depth: int | None
    fps: float | None


def parse_h264_sps(nal: bytes) -> SpsFacts:
    """Read an H.264 SPS with its one-byte NAL header.

    Raises:
        BitsError: too short, too long, or a size that no camera has.
    """
    if not 4 <= len(nal) <= MAX_SPS_BYTES:
        raise BitsError(f"SPS of {len(nal)} bytes")
    r = BitReader(nal[1:])
    profile = r.u(8)
    constraints = r.u(8)
    r.skip(8)
    r.ue()
    chroma, separate_planes = 1, False
    if profile in _H264_HIGH:
        chroma = r.ue()
        if chroma == 3:
            separate_planes = r.flag()
        r.ue()
        r.ue()
        r.skip(1)
        if r.flag():
            for index in range(12 if chroma == 3 else 8):
                if r.flag():
                    _skip_h264_scaling_list(r, 16 if index < 6 else 64)
    r.ue()
    poc_type = r.ue()
    if poc_type == 0:
        r.ue()
    elif poc_type == 1:
        r.skip(1)
        r.se()
        r.se()
        cycle = r.ue()
        if cycle > 255:
            raise BitsError(f"{cycle} frames in a picture order cycle")
        for _ in range(cycle):
            r.se()
    r.ue()
    r.skip(1)
    width = (r.ue() + 1) * 16
    map_units = r.ue() + 1
    frame_mbs_only = r.flag()
    height = map_units * 16 * (1 if frame_mbs_only else 2)
    if not frame_mbs_only:
        r.skip(1)
    r.skip(1)
    if r.flag():
        unit_x = 2 if chroma in (1, 2) and not separate_planes else 1
        unit_y = (2 if chroma == 1 and not separate_planes else 1) * (1 if frame_mbs_only else 2)
        width -= (r.ue() + r.ue()) * unit_x
        height -= (r.ue() + r.ue()) * unit_y
    _check_size(width, height)
    # Baseline has no B-frames; picture order type 2 forbids reordering; constraint_set3 of the intra profiles too.
    intra_only = profile in (44, 86, 100, 110, 122, 244) and bool(constraints & 0x10)
    depth = 0 if profile == 66 or poc_type == 2 or intra_only else None
    fps: float | None = None
    try:
        if r.flag():
            fps, said = _h264_vui(r)
            depth = depth if said is None or depth == 0 else min(said, 16)
    except BitsError:
        pass  # the size is known; what a broken VUI says is not believed
    return SpsFacts(width, height, depth, fps)


def parse_h265_sps(nal: bytes) -> SpsFacts:
    """Read an H.265 SPS with its two-byte NAL header.

    Raises:
        BitsError: too short, too long, or a size that no camera has.
    """
    if not 6 <= len(nal) <= MAX_SPS_BYTES:
        raise BitsError(f"SPS of {len(nal)} bytes")
    r = BitReader(nal[2:])
    r.skip(4)
    sub_layers = r.u(3)
    r.skip(1)
    _skip_profile_tier_level(r, sub_layers)
    r.ue()
    chroma = r.ue()
    separate_planes = chroma == 3 and r.flag()
    width, height = r.ue(), r.ue()
    if r.flag():
        unit_x = 2 if chroma in (1, 2) and not separate_planes else 1
        unit_y = 2 if chroma == 1 and not separate_planes else 1
        width -= (r.ue() + r.ue()) * unit_x
        height -= (r.ue() + r.ue()) * unit_y
    _check_size(width, height)
    depth: int | None = None
    fps: float | None = None
    try:
        r.ue()
        r.ue()
        poc_bits = r.ue() + 4
        for _ in range(0 if r.flag() else sub_layers, sub_layers + 1):
            r.ue()
            depth = min(r.ue(), 16)
            r.ue()
        fps = _h265_fps(r, poc_bits)
    except BitsError:
        pass  # as above
    return SpsFacts(width, height, depth, fps)


def _check_size(width: int, height: int) -> None:
    if not (_MIN_SIDE <= width <= _MAX_SIDE and _MIN_SIDE <= height <= _MAX_SIDE):
        raise BitsError(f"picture of {width}x{height}")


def _fps(time_scale: int, units: int) -> float | None:
    fps = time_scale / units if units else 0.0
    return fps if 0.01 <= fps <= 1000 else None


def _skip_h264_scaling_list(r: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + r.se()) % 256
        last = following or last


def _h264_vui(r: BitReader) -> tuple[float | None, int | None]:
    if r.flag() and r.u(8) == 255:
        r.skip(32)
    if r.flag():
        r.skip(1)
    if r.flag():
        r.skip(4)
        if r.flag():
            r.skip(24)
    if r.flag():
        r.ue()
        r.ue()
    fps = None
    if r.flag():
        units, scale = r.u(32), r.u(32)
        r.skip(1)
        fps = _fps(scale, 2 * units)
    try:
        has_hrd = False
        for _ in range(2):
            if r.flag():
                has_hrd = True
                _skip_h264_hrd(r)
        if has_hrd:
            r.skip(1)
        r.skip(1)
        if not r.flag():
            return fps, None
        r.skip(1)
        for _ in range(4):
            r.ue()
        return fps, r.ue()
    except BitsError:
        return fps, None


def _skip_h264_hrd(r: BitReader) -> None:
    count = r.ue() + 1
    if count > 32:
        raise BitsError(f"{count} coded picture buffers")
    r.skip(8)
    for _ in range(count):
        r.ue()
        r.ue()
        r.skip(1)
    r.skip(20)


def _skip_profile_tier_level(r: BitReader, sub_layers: int) -> None:
    r.skip(96)
    present = [(r.flag(), r.flag()) for _ in range(sub_layers)]
    if sub_layers:
        r.skip(2 * (8 - sub_layers))
    for profile, level in present:
        r.skip((88 if profile else 0) + (8 if level else 0))


def _h265_fps(r: BitReader, poc_bits: int) -> float | None:
    for _ in range(6):
        r.ue()
    if r.flag() and r.flag():
        _skip_h265_scaling_lists(r)
    r.skip(2)
    if r.flag():
        r.skip(8)
        r.ue()
        r.ue()
        r.skip(1)
    _skip_short_term_sets(r)
    if r.flag():
        count = r.ue()
        if count > 32:
            raise BitsError(f"{count} long-term pictures")
        r.skip(count * (poc_bits + 1))
    r.skip(2)
    if not r.flag():
        return None
    if r.flag() and r.u(8) == 255:
        r.skip(32)
    if r.flag():
        r.skip(1)
    if r.flag():
        r.skip(4)
        if r.flag():
            r.skip(24)
    if r.flag():
        r.ue()
        r.ue()
    r.skip(3)
    if r.flag():
        for _ in range(4):
            r.ue()
    if not r.flag():
        return None
    units, scale = r.u(32), r.u(32)
    return _fps(scale, units)


def _skip_h265_scaling_lists(r: BitReader) -> None:
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not r.flag():
                r.ue()
                continue
            if size > 1:
                r.se()
            for _ in range(min(64, 1 << (4 + (size << 1)))):
                r.se()


def _skip_short_term_sets(r: BitReader) -> None:
    count = r.ue()
    if count > 64:
        raise BitsError(f"{count} reference picture sets")
    deltas = 0
    for index in range(count):
        if index and r.flag():
            r.skip(1)
            r.ue()
            kept = 0
            for _ in range(deltas + 1):
                if r.flag() or r.flag():
                    kept += 1
            deltas = kept
            continue
        negative, positive = r.ue(), r.ue()
        if negative > 16 or positive > 16:
            raise BitsError(f"{negative}+{positive} reference pictures")
        for _ in range(negative + positive):
            r.ue()
            r.skip(1)
        deltas = negative + positive
