"""The odder deviations of cameras: strange packets, hidden keyframes, keep-alives refused, against the real session.

Every deviation is reconstructed from the public source named beside it. Policies: docs/design/camera_quirks.md.
"""

from __future__ import annotations

import asyncio
import itertools
import struct

import pytest

from ingest.rtsp import session as session_module
from tests.ingest.makers.maker import all_of, maker, sends
from tests.ingest.rtsp.encoded import decode, encode, interleaved, packets, payloads, rtp
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, Watched, opened


async def test_reolink_packets_of_another_session() -> None:
    # reconstructed: scottlamb/moonfire-nvr issue 114 and scottlamb/retina issue 17 (RLC-410, live555 v2013.04.08):
    # packets of a session that is gone, with their own SSRC and numbers, between ours, and before PLAY
    ours = packets(encode(), first_sequence=40_477)
    theirs = [
        packet[:8] + struct.pack(">I", 0x5BF73F70) + packet[12:]
        for packet in packets(encode(gop=5), first_sequence=25_580, first_time=777_000)
    ]
    mixed = [interleaved(one) for pair in zip(ours, theirs, strict=False) for one in pair]
    mixed += [interleaved(one) for one in ours[len(theirs) :]]

    def setup(dialogue: Dialogue, asked: Asked) -> None:
        for packet in theirs[:20]:
            dialogue.writer.write(interleaved(packet))
        dialogue.answer(asked, "200 OK", f"Transport: {asked.headers['transport']};ssrc=00000007", "Session: 77")

    camera = maker({"SETUP": setup, "PLAY": sends(mixed)})
    async with camera.running(), opened(camera) as watched:
        units = await watched.wait_for(20)
        assert watched.session.lost_packets == 0
        assert decode(units) == [(320, 180)] * 20


async def test_reolink_another_session_when_nobody_says_the_ssrc() -> None:
    # As above, and SETUP does not tell which SSRC is ours: that of the first packet is kept as long as it sends.
    ours = packets(encode(), first_sequence=1)
    theirs = [packet[:8] + b"\1\2\3\4" + packet[12:] for packet in packets(encode(gop=5), first_sequence=30_000)]
    mixed = [interleaved(one) for pair in zip(ours, theirs, strict=False) for one in pair]
    await all_of(mixed + [interleaved(one) for one in ours[len(theirs) :]])


async def test_v380_a_whole_keyframe_within_the_fragments_of_an_sps() -> None:
    # reconstructed: scottlamb/retina issues 68 and 108, pull request 100 (macro-video server): SPS, PPS and IDR, with
    # start codes between them, as fragments of "one" NAL unit of type SPS
    clip, sequence, stream = encode(), itertools.count(), []
    for frame in clip.frames:
        nals = [b"\0\0\0\1".join(frame.nals)] if frame.is_keyframe else list(frame.nals)
        pieces = [piece for nal in nals for piece in payloads("h264", nal)]
        for index, piece in enumerate(pieces):
            marker = index == len(pieces) - 1
            stream.append(interleaved(rtp(piece, next(sequence), frame.pts_90k, marker=marker)))
    units = await all_of(stream, sets=False)
    assert [unit.is_keyframe for unit in units] == [number % 10 == 0 for number in range(20)]


@pytest.mark.parametrize("status", ["501 Not Implemented", "454 Session Not Found"])
async def test_keep_alives_that_a_camera_does_not_know(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # reconstructed: themactep/thingino-firmware issue 490 (MJSXJ03HL: GET_PARAMETER is answered 454 in a session that
    # lives, and the picture goes on)
    camera = maker({"GET_PARAMETER": f"RTSP/1.0 {status}\nCSeq: {{cseq}}\n\n"})
    monkeypatch.setattr(session_module, "KEEP_ALIVE_FRACTION", 0.002)
    async with camera.running(), opened(camera) as watched:
        async with asyncio.timeout(5):
            while camera.methods[4:7] != ["GET_PARAMETER", "OPTIONS", "OPTIONS"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not watched.session._ended.done()


async def test_c520ws_answers_a_keep_alive_under_the_previous_number(monkeypatch: pytest.MonkeyPatch) -> None:
    # reconstructed: scottlamb/retina issue 133: advertised, refused with 400, and the answer has the CSeq before
    def refuse(dialogue: Dialogue, asked: Asked) -> None:
        asked.headers["cseq"] = str(int(asked.headers["cseq"]) - 1)
        dialogue.answer(asked, "400 Bad Request")

    camera = maker({"GET_PARAMETER": refuse})
    monkeypatch.setattr(session_module, "KEEP_ALIVE_FRACTION", 0.002)
    async with camera.running():
        watched = Watched(camera.url(), patience=session_module.Patience(3, 3, 0.2))
        await watched.session.open()
        async with asyncio.timeout(5):
            while camera.methods[4:7] != ["GET_PARAMETER", "OPTIONS", "OPTIONS"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(watched.units) == 20 and not watched.session._ended.done()
        await watched.session.close()
