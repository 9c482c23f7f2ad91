"""How cameras of many makers send their packets, keep-alives and clocks, against the real session.

Every deviation is reconstructed from the public source named beside it. Policies: docs/design/camera_quirks.md.
"""

from __future__ import annotations

import itertools
import random
import socket
import struct
import time

import pytest

from ingest.rtsp.udp import UdpReceiver
from tests.ingest.makers.maker import all_of, maker, watching
from tests.ingest.rtsp.encoded import TICKS, decode, encode, interleaved, is_set, packets, payloads, rtp
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, opened


async def test_reolink_sets_with_the_previous_pictures_time_and_markers() -> None:
    # reconstructed: scottlamb/retina issue 13 (RLC-822A): SPS and PPS carry the time of the picture before them; the
    # SPS its own marker; the first pair has a time that no picture has
    clip, sequence, stream, before = encode(), itertools.count(), [], 90_000
    for frame in clip.frames:
        for nal in frame.nals:
            time_90k, marker = (before, nal[0] & 0x1F == 7) if is_set("h264", nal) else (200_000 + frame.pts_90k, False)
            pieces = payloads("h264", nal)
            last = not is_set("h264", nal)
            for index, piece in enumerate(pieces):
                ends = marker or (last and index == len(pieces) - 1)
                stream.append(interleaved(rtp(piece, next(sequence), time_90k, marker=ends)))
        before = 200_000 + frame.pts_90k
    units = await all_of(stream)
    assert sum(unit.is_keyframe for unit in units) == 2
    assert {b.pts_90k - a.pts_90k for a, b in itertools.pairwise(units)} == {TICKS}


async def test_dahua_announces_an_ssrc_that_never_comes() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/dahua_play_decimal_ssrc.txt
    camera = maker({"SETUP": "RTSP/1.0 200 OK\nCSeq: {cseq}\nTransport: {transport};ssrc=51DEADBE\nSession: 3\n\n"})
    async with camera.running(), opened(camera) as watched:
        assert decode(await watched.wait_for(20)) == [(320, 180)] * 20


async def test_a_camera_that_begins_anew_with_another_ssrc() -> None:
    # The encoder restarts within the session (a changed setting): new SSRC, numbers and times, from a keyframe on.
    first = packets(encode(), first_sequence=100, first_time=5_000)
    anew = [p[:8] + b"\0\0\0\x63" + p[12:] for p in packets(encode(), first_sequence=60_000, first_time=4_000_000_000)]
    async with watching([interleaved(one) for one in first + anew]) as watched:
        units = await watched.wait_for(40)
    assert len(decode(units[:20])) == len(decode(units[20:])) == 20
    assert [number for number, unit in enumerate(units) if unit.discontinuity] == [0, 20]


async def test_axis_replay_extension_and_padding() -> None:
    # reconstructed: onvif/specs issue 516 (Axis `onvifreplayext=1`): extension 0xABAC of three words on every frame
    stream = []
    for number, packet in enumerate(packets(encode())):
        sequence, when = struct.unpack(">HI", packet[2:8])
        stamp = struct.pack(">IIBBH", 3_900_000_000, number, 0x80, number & 0xFF, 0)
        padding = number % 5
        made = rtp(packet[12:], sequence, when, marker=bool(packet[1] & 0x80), extension=stamp, padding=padding)
        stream.append(interleaved(made))
    await all_of(stream)


async def test_axis_canon_bytes_between_frames() -> None:
    # reconstructed: bluenviron/gortsplib pull request 653 (VB-H47): random bytes between interleaved frames
    rng = random.Random(3)
    stream = []
    for number, packet in enumerate(packets(encode())):
        junk = rng.randbytes(rng.randrange(1, 90)) if number % 4 == 1 else b""
        stream.append(interleaved(packet) + junk)
    await all_of(stream)


async def test_herospeed_reserved_bit_and_openipc_lone_fragments() -> None:
    # reconstructed: scottlamb/retina pull requests 109 (FU-A reserved bit set) and 131 (start and end bit in one)
    clip, sequence, stream = encode(), itertools.count(), []
    for frame in clip.frames:
        pieces = []
        for nal in frame.nals:
            if len(nal) <= 600:
                pieces.append(bytes([nal[0] & 0xE0 | 28, 0xC0 | nal[0] & 0x1F]) + nal[1:])
            else:
                made = payloads("h264", nal)
                pieces += [
                    piece[:1] + bytes([piece[1] | 0x20 * (index % 2)]) + piece[2:] for index, piece in enumerate(made)
                ]
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            stream.append(interleaved(rtp(piece, next(sequence), frame.pts_90k, marker=last)))
    await all_of(stream)


async def test_foscam_parameter_sets_that_change_in_band() -> None:
    # The picture size is changed in the camera's web page while it plays; SDP still tells of the old one.
    small, large = encode(), encode(width=480, height=272)
    first = packets(small)
    second = packets(large, first_sequence=len(first), first_time=20 * TICKS)
    async with watching([interleaved(one) for one in first + second]) as watched:
        units = await watched.wait_for(40)
        assert watched.session.lost_packets == 0
    assert [(unit.format.width, unit.format.height) for unit in units] == [(320, 180)] * 20 + [(480, 272)] * 20
    assert [number for number, unit in enumerate(units) if unit.discontinuity] == [0, 20]


async def test_wyze_time_that_goes_back_at_a_keyframe() -> None:
    # reconstructed: gtxaspec/raptor issue 43 (seconds back), AlexxIT/go2rtc pull request 1943 (Tapo: back to 0)
    clip, stream = encode(), []
    for packet in packets(clip, first_time=900_000):
        at = struct.unpack(">I", packet[4:8])[0] - 900_000
        stream.append(
            packet[:4] + struct.pack(">I", at - 10 * TICKS if at >= 10 * TICKS else at + 900_000) + packet[8:]
        )
    units = await all_of([interleaved(one) for one in stream])
    assert [number for number, unit in enumerate(units) if unit.discontinuity] == [0, 10]
    assert units[-1].wall_s == pytest.approx(time.time(), abs=3)


async def test_intelbras_single_frames_hours_away() -> None:
    # reconstructed: bluenviron/mediamtx pull request 6255: now and then one frame's time is 9,800 s in the past or
    # 37,600 s in the future
    clip, stream = encode(), []
    odd = {4 * TICKS: -9_800, 13 * TICKS: 37_600}
    for packet in packets(clip, first_time=2**31):
        at = struct.unpack(">I", packet[4:8])[0]
        at += 90_000 * odd.get(at - 2**31, 0)
        stream.append(interleaved(packet[:4] + struct.pack(">I", at & 0xFFFFFFFF) + packet[8:]))
    units = await all_of(stream)
    assert units[-1].pts_90k - units[0].pts_90k < 3 * 90_000, "hours were not added to the timeline"


async def test_dahua_sender_reports_whose_clock_is_stepped() -> None:
    # reconstructed: scottlamb/moonfire-nvr issue 36 (Starlight; SNTP steps the clock): only the reported offset moves
    stream = [interleaved(one) for one in packets(encode())]
    ahead = 2_208_988_800 + int(time.time())
    for at, seconds in ((len(stream) // 3, -40), (len(stream) // 2, 3600)):
        report = struct.pack(">BBHIIIIII", 0x80, 200, 6, 7, ahead + seconds, 0, 0, 1, 1)
        stream.insert(at, interleaved(report, 1))
    async with watching(stream) as watched:
        units = await watched.wait_for(20)
        assert watched.session.clock_offset_s == pytest.approx(3600, abs=3)
    assert [number for number, unit in enumerate(units) if unit.discontinuity] == [0]
    assert all(abs(unit.wall_s - time.time()) < 3 for unit in units)


@pytest.mark.parametrize(
    "granted",
    [
        "RTP/AVP/UDP; unicast; client_port={ports}",  # reconstructed: OpenIPC/smolrtsp issue 31: no server_port
        "RTP/AVP;unicast;client_port={ports};server_port=40000-40001,ssrc=FFFFCCCC",  # bluenviron/mediamtx issue 762
    ],
)
async def test_openipc_and_victure_udp_transports(granted: str) -> None:
    clip = encode()

    def setup(dialogue: Dialogue, asked: Asked) -> None:
        ports = asked.headers["transport"].split("client_port=")[1]
        dialogue.camera.udp_port = int(ports.split("-")[0])  # type: ignore[attr-defined]
        dialogue.answer(asked, "200 OK", "Transport: " + granted.format(ports=ports), "Session: 9")

    def play(dialogue: Dialogue, asked: Asked) -> None:
        dialogue.answer(asked)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # from a port that nobody has named
            for packet in packets(clip):
                sender.sendto(packet, ("127.0.0.1", dialogue.camera.udp_port))  # type: ignore[attr-defined]

    camera = maker({"SETUP": setup, "PLAY": play}, clip=clip)
    async with camera.running(), opened(camera, transport="udp") as watched:
        # The last unit waits for its reordering window.
        assert len(decode(await watched.wait_for(20))) == 20
        assert isinstance(watched.session._udp, UdpReceiver)
