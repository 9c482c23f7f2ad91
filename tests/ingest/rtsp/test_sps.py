"""SPS of real encoders: size with cropping, reorder depth, frame rate; and hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.access_unit import Codec
from ingest.rtsp.bits import BitReader, BitsError
from ingest.rtsp.sps import SpsFacts, parse_h264_sps, parse_h265_sps
from tests.ingest.rtsp.encoded import encode


def sps_of(codec: Codec, **how: object) -> SpsFacts:
    sets = encode(codec, frames=3, **how).sets  # type: ignore[arg-type]
    return parse_h264_sps(sets[0]) if codec == "h264" else parse_h265_sps(sets[1])


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("size", [(320, 180), (1920, 1080), (354, 290), (64, 64)])
def test_size_and_rate_are_those_of_the_encoder(codec: Codec, size: tuple[int, int]) -> None:
    facts = sps_of(codec, width=size[0], height=size[1])
    assert (facts.width, facts.height) == size
    assert facts.fps == 25


@pytest.mark.parametrize(
    ("codec", "b_frames", "options", "depth"),
    [
        ("h264", 0, (("profile", "baseline"),), 0),
        ("h264", 0, (("profile", "high"),), 0),
        ("h264", 2, (("preset", "veryfast"), ("x264-params", "bframes=2:b-pyramid=none:b-adapt=0")), 1),
        ("h264", 3, (("preset", "veryfast"), ("x264-params", "bframes=3:b-pyramid=normal:b-adapt=0")), 2),
        ("hevc", 0, (), 0),
    ],
)
def test_reorder_depth(codec: Codec, b_frames: int, options: tuple[tuple[str, str], ...], depth: int) -> None:
    assert sps_of(codec, b_frames=b_frames, options=options).reorder_depth == depth


def test_h265_with_b_frames_says_its_depth() -> None:
    depth = sps_of("hevc", b_frames=2).reorder_depth
    assert depth is not None and depth >= 1


def test_interlaced_height_counts_both_fields() -> None:
    facts = sps_of("h264", height=288, options=(("x264-params", "interlaced=1:bframes=0"),))
    assert (facts.width, facts.height) == (320, 288)


def test_an_sps_without_reorder_facts_says_so() -> None:
    sps = encode("h264", frames=3).sets[0]
    cut = parse_h264_sps(sps[:12])  # the size is there, the VUI is not
    assert cut.width == 320 and cut.fps is None


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 80), st.binary(max_size=6))
def test_hostile_sps_raise_bits_errors_only(noise: bytes, at: int, patch: bytes) -> None:
    for codec, parse in (("h264", parse_h264_sps), ("hevc", parse_h265_sps)):
        sets = encode(codec, frames=3).sets  # type: ignore[arg-type]
        real = sets[0 if codec == "h264" else 1]
        for sps in (noise, real[:at], real[:at] + patch + real[at + len(patch) :]):
            try:
                facts = parse(sps)
            except BitsError:
                continue
            assert 8 <= facts.width <= 16384 and 8 <= facts.height <= 16384
            assert facts.reorder_depth is None or 0 <= facts.reorder_depth <= 16
            assert facts.fps is None or 0 < facts.fps <= 1000


def test_exp_golomb_codes() -> None:
    reader = BitReader(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [reader.ue() for _ in range(4)] == [0, 1, 2, 3]
    signed = BitReader(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [signed.se() for _ in range(4)] == [0, 1, -1, 2]
    with pytest.raises(BitsError):
        BitReader(bytes(8)).ue()
