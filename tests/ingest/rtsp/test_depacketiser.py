"""Packets to access units with real H.264 and H.265: the decoder sees every frame; loss is counted exactly; quirks."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.access_unit import AccessUnit, Codec
from ingest.rtsp.depacketiser import MAX_UNIT_BYTES
from ingest.rtsp.parameter_sets import split_annex_b
from tests.ingest.rtsp.encoded import (
    TICKS,
    Clip,
    aggregate,
    decode,
    encode,
    feed,
    is_set,
    make,
    packets,
    payloads,
    rtp,
)

CODECS: list[Codec] = ["h264", "hevc"]


def check_unit(unit: AccessUnit) -> None:
    """What `AccessUnit` promises of its bytes."""
    for offset in unit.nal_offsets:
        assert unit.data[offset : offset + 4] == b"\0\0\0\1"
    assert unit.nal_offsets[0] == 0 and list(unit.nal_offsets) == sorted(set(unit.nal_offsets))
    nals = split_annex_b(unit.data)
    assert len(nals) == len(unit.nal_offsets)
    kinds = [nal[0] & 0x1F if unit.format.codec == "h264" else nal[0] >> 1 & 0x3F for nal in nals]
    if unit.is_keyframe:
        front = [7, 8] if unit.format.codec == "h264" else [32, 33, 34]
        assert kinds[: len(front)] == front
        assert not set(kinds[len(front) :]) & set(front)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("sets_from", ["stream", "sdp"])
def test_every_frame_arrives_and_decodes(codec: Codec, sets_from: str) -> None:
    clip = encode(codec)
    depacketiser, units = make(codec, clip.sets if sets_from == "sdp" else [])
    feed(depacketiser, packets(clip, sets=sets_from == "stream"))
    assert [unit.is_keyframe for unit in units] == [frame.is_keyframe for frame in clip.frames]
    for unit in units:
        check_unit(unit)
    assert decode(units) == [(320, 180)] * len(clip.frames)
    assert units[0].discontinuity and not any(unit.discontinuity for unit in units[1:])
    assert [unit.pts_90k - units[0].pts_90k for unit in units] == [frame.pts_90k for frame in clip.frames]
    assert depacketiser.lost_packets == depacketiser.bad_packets == depacketiser.damaged_units == 0


@pytest.mark.parametrize("codec", CODECS)
def test_a_decoder_can_start_at_any_keyframe(codec: Codec) -> None:
    clip = encode(codec)
    depacketiser, units = make(codec, clip.sets)
    feed(depacketiser, packets(clip, sets=False))
    second = [index for index, unit in enumerate(units) if unit.is_keyframe][1]
    assert len(decode(units[second:])) == len(units) - second


@pytest.mark.parametrize("codec", CODECS)
def test_aggregates(codec: Codec) -> None:
    clip = encode(codec)
    depacketiser, units = make(codec)
    sequence = 0
    for frame in clip.frames:
        small = [nal for nal in frame.nals if len(nal) < 600]
        pieces = [aggregate(codec, small)] if len(small) > 1 else small
        pieces += [piece for nal in frame.nals if len(nal) >= 600 for piece in payloads(codec, nal)]
        for index, piece in enumerate(pieces):
            feed(depacketiser, [rtp(piece, sequence, frame.pts_90k, marker=index == len(pieces) - 1)])
            sequence += 1
    assert len(decode(units)) == len(clip.frames)


def test_padding_extensions_and_csrcs_are_no_payload() -> None:
    plain, units = make()
    dressed, others = make()
    rng = random.Random(1)
    feed(plain, packets(encode()))
    for number, packet in enumerate(packets(encode())):
        extension = rng.choice([None, b"", b"onvi" * 3])
        time, marker = int.from_bytes(packet[4:8], "big"), bool(packet[1] & 0x80)
        how = {"padding": rng.choice([0, 1, 7]), "csrcs": rng.choice([0, 3])}
        feed(dressed, [rtp(packet[12:], number, time, marker=marker, extension=extension, **how)])
    assert [unit.data for unit in others] == [unit.data for unit in units] and len(units) == 20


def test_both_wraps() -> None:
    clip = encode()
    depacketiser, units = make()
    feed(depacketiser, packets(clip, first_sequence=65_500, first_time=2**32 - 5 * TICKS))
    assert depacketiser.lost_packets == 0 and len(units) == len(clip.frames)
    assert [b.pts_90k - a.pts_90k for a, b in itertools.pairwise(units)] == [TICKS] * (len(units) - 1)
    assert not any(unit.discontinuity for unit in units[1:])


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(3, 10_000), max_size=30), st.sampled_from(CODECS))
def test_loss_is_counted_exactly_and_only_damage_is_dropped(missing: set[int], codec: Codec) -> None:
    clip = encode(codec)
    made = packets(clip)
    gone = {index for index in missing if index < len(made) - 1}
    depacketiser, units = make(codec, clip.sets)
    feed(depacketiser, [packet for index, packet in enumerate(made) if index not in gone])
    assert depacketiser.lost_packets == len(gone)
    whole, reference = make(codec, clip.sets)
    feed(whole, made)
    untouched = {unit.data for unit in reference}
    assert all(unit.data in untouched for unit in units)
    # Nothing that is delivered lacks its keyframe.
    hit = {number for number, frame in enumerate(clip.frames) if packets_of(clip, number) & gone}
    expected, waiting = [], True
    for number, frame in enumerate(clip.frames):
        waiting = (waiting and (not frame.is_keyframe or number in hit)) or (frame.is_keyframe and number in hit)
        if number not in hit and not waiting:
            expected.append(number)
    pts = [(unit.pts_90k - clip.frames[0].pts_90k) // TICKS for unit in units]
    assert len(pts) <= len(expected)
    assert set(pts) <= set(expected)
    lost_told = sum(unit.lost_packets for unit in units)
    assert lost_told <= len(gone)
    if units and max(gone, default=0) < first_packet(clip, pts[-1]):
        assert lost_told == len(gone)


def first_packet(clip: Clip, number: int) -> int:
    return sum(
        len([piece for nal in frame.nals for piece in payloads(clip.codec, nal)]) for frame in clip.frames[:number]
    )


def packets_of(clip: Clip, number: int) -> set[int]:
    """The packets that a frame cannot do without: a parameter set that is lost in front of it is known already."""
    sets = sum(is_set(clip.codec, nal) for nal in clip.frames[number].nals)
    return set(range(first_packet(clip, number) + sets, first_packet(clip, number + 1)))


def test_one_lost_packet_costs_one_unit() -> None:
    clip = encode()
    made = packets(clip)
    at = first_packet(clip, 4)
    depacketiser, units = make()
    feed(depacketiser, made[:at] + made[at + 1 :])
    assert len(units) == len(clip.frames) - 1 and depacketiser.damaged_units == 1
    assert [unit.lost_packets for unit in units if unit.lost_packets] == [1]


def test_a_lost_keyframe_takes_its_gop_along() -> None:
    clip = encode()
    made = packets(clip)
    at = first_packet(clip, 10) + 4
    depacketiser, units = make()
    feed(depacketiser, made[:at] + made[at + 1 :])
    assert len(units) == 10 and depacketiser.undecodable_units == 9


def test_nothing_before_the_first_keyframe() -> None:
    clip = encode()
    depacketiser, units = make(sets=clip.sets)
    feed(depacketiser, packets(clip)[first_packet(clip, 3) :])
    assert units[0].is_keyframe and len(units) == 10 and depacketiser.seen_units == 17


def test_marker_on_every_nal_unit() -> None:
    """Cameras that set the marker behind SPS, PPS and SEI too."""
    clip = encode()
    depacketiser, units = make()
    sequence = 0
    for frame in clip.frames:
        for nal in frame.nals:
            pieces = payloads("h264", nal)
            for index, piece in enumerate(pieces):
                feed(depacketiser, [rtp(piece, sequence, frame.pts_90k, marker=index == len(pieces) - 1)])
                sequence += 1
    assert len(decode(units)) == len(clip.frames)


def test_no_marker_at_all() -> None:
    depacketiser, units = make()
    feed(depacketiser, [bytes([packet[0], packet[1] & 0x7F]) + packet[2:] for packet in packets(encode())])
    assert len(decode(units)) == len(encode().frames) - 1  # the last is told by the next one's time


def test_marker_on_every_slice() -> None:
    """The first picture is torn, then only RTP time counts."""
    clip = encode(options=(("x264-params", "slices=3:keyint=5:min-keyint=5:bframes=0"),), gop=5)
    depacketiser, units = make()
    sequence = 0
    for frame in clip.frames:
        for nal in frame.nals:
            pieces = payloads("h264", nal)
            for index, piece in enumerate(pieces):
                feed(depacketiser, [rtp(piece, sequence, frame.pts_90k, marker=index == len(pieces) - 1)])
                sequence += 1
    assert depacketiser.marker_faults == 1
    later = [unit for unit in units if unit.pts_90k - units[0].pts_90k >= 5 * TICKS]
    assert later[0].is_keyframe and len(decode(later)) == len(clip.frames) - 6


def test_parameter_sets_with_a_time_of_their_own() -> None:
    clip = encode()
    depacketiser, units = make()
    sequence = 0
    for frame in clip.frames:
        pieces = [(piece, is_set("h264", nal)) for nal in frame.nals for piece in payloads("h264", nal)]
        for index, (piece, early) in enumerate(pieces):
            time = frame.pts_90k - (90 if early else 0)
            feed(depacketiser, [rtp(piece, sequence, time, marker=index == len(pieces) - 1)])
            sequence += 1
    assert len(decode(units)) == len(clip.frames)
    assert all(unit.is_keyframe == frame.is_keyframe for unit, frame in zip(units, clip.frames, strict=True))


def test_start_codes_within_rtp() -> None:
    clip = encode()
    depacketiser, units = make()
    for sequence, frame in enumerate(clip.frames):
        body = b"".join(b"\0\0\0\1" + nal for nal in frame.nals)
        feed(depacketiser, [rtp(body, sequence, frame.pts_90k, marker=True)])
    assert len(decode(units)) == len(clip.frames)


def test_several_sets_in_one_nal_unit() -> None:
    clip = encode()
    depacketiser, units = make()
    sequence = 0
    for frame in clip.frames:
        nals = [nal for nal in frame.nals if not is_set("h264", nal)]
        if frame.is_keyframe:
            nals.insert(0, b"\0\0\0\1".join(clip.sets))
        pieces = [piece for nal in nals for piece in payloads("h264", nal)]
        for index, piece in enumerate(pieces):
            feed(depacketiser, [rtp(piece, sequence, frame.pts_90k, marker=index == len(pieces) - 1)])
            sequence += 1
    for unit in units:
        check_unit(unit)
    assert len(decode(units)) == len(clip.frames)


def test_end_bit_never_set() -> None:
    clip = encode()
    depacketiser, units = make()
    for packet in packets(clip):
        if packet[12] & 0x1F == 28:
            packet = packet[:13] + bytes([packet[13] & 0xBF]) + packet[14:]
        feed(depacketiser, [packet])
    assert len(decode(units)) == len(clip.frames)


def test_a_new_resolution_is_a_new_format_and_a_discontinuity() -> None:
    small, big = encode(), encode(width=640, height=360)
    depacketiser, units = make()
    first = packets(small)
    feed(depacketiser, first)
    feed(depacketiser, packets(big, first_sequence=len(first), first_time=20 * TICKS))
    assert [(unit.format.width, unit.format.height) for unit in (units[0], units[20])] == [(320, 180), (640, 360)]
    assert [number for number, unit in enumerate(units) if unit.discontinuity] == [0, 20]
    assert units[1].format is units[0].format
    assert decode(units[20:])[0] == (640, 360)


def test_a_sender_that_restarts_its_sequence() -> None:
    clip = encode()
    depacketiser, units = make()
    feed(depacketiser, packets(clip, first_sequence=40_000))
    feed(depacketiser, packets(clip, first_sequence=5, first_time=20 * TICKS))
    assert depacketiser.sequence_resets == 1 and depacketiser.lost_packets == 0 and len(units) == 40


@pytest.mark.parametrize("codec", CODECS)
def test_b_frames_have_a_growing_dts(codec: Codec) -> None:
    options = (("preset", "veryfast"), ("x264-params", "bframes=3:b-pyramid=normal:b-adapt=0:keyint=10:scenecut=0"))
    clip = encode(codec, b_frames=3, options=options if codec == "h264" else ())
    depacketiser, units = make(codec)
    feed(depacketiser, packets(clip))
    assert len(units) == len(clip.frames) and units[0].format.reorder_depth >= 1
    assert all(unit.dts_90k <= unit.pts_90k for unit in units)
    assert all(a.dts_90k < b.dts_90k for a, b in itertools.pairwise(units))
    assert sum(unit.discontinuity for unit in units) == 1
    assert sorted(unit.pts_90k for unit in units) != [unit.pts_90k for unit in units]


def test_a_unit_without_end_is_bounded() -> None:
    depacketiser, units = make(sets=encode().sets)
    feed(depacketiser, [rtp(b"\x7c\x85" + bytes(1000), 0, 0)])
    most = 0
    for sequence in range(1, MAX_UNIT_BYTES // 1000 * 2):
        feed(depacketiser, [rtp(b"\x7c\x05" + bytes(1000), sequence, 0)])
        most = max(most, sum(map(len, depacketiser._parts)))
    assert depacketiser.oversized_units >= 1 and most <= MAX_UNIT_BYTES + 2000 and not units


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=40), st.integers(0, 65_535), st.integers(0, 2**32 - 1), st.booleans()), max_size=25
    ),
    st.sampled_from(CODECS),
)
def test_hostile_payloads(made: list[tuple[bytes, int, int, bool]], codec: Codec) -> None:
    clip = encode(codec)
    depacketiser, units = make(codec, clip.sets)
    real = packets(clip)
    feed(depacketiser, real[:50])
    before = len(units)
    for payload, sequence, time, marker in made:
        feed(depacketiser, [rtp(payload, sequence, time, marker=marker), payload])
    feed(depacketiser, packets(clip, first_sequence=30_000, first_time=2**31))
    assert len(units) >= before + 10  # it recovers at a keyframe
    for unit in units:
        assert len(unit.data) <= MAX_UNIT_BYTES + 10_000
        assert unit.format.width == 320
