"""Session descriptions after documented cameras, bad lines, control URLs, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.rtsp.sdp import join_control, parse_sdp
from tests.ingest.rtsp.encoded import encode

# Reconstructed after public captures: a camera with a private track first, audio, and lines that are no SDP.
MIXED = b"""v=0\r
o=- 1109162014219182 1109162014219192 IN IP4 x.y.z.w\r
s=Media Presentation\r
e=NONE\r
this is no line
b=AS:5100\r
t=0 0\r
a=control:rtsp://10.0.0.5/live/\r
m=audio 0 RTP/AVP 8\r
a=control:trackID=2\r
m=video 0 RTP/AVP 96\r
c=IN IP4 0.0.0.0\r
a=recvonly\r
a=control:trackID=1\r
a=rtpmap:96  H264/90000\r
a=fmtp:96 profile-level-id=420029; packetization-mode=1; sprop-parameter-sets=Z0IAKeKQGQd/EYC3AQEBpB4kRUA=,aM48gA==\r
a=Media_header:MEDIAINFO=494D4B48;\r
a=appversion:1.0\r
m=application 0 RTP/AVP 107\r
a=control:trackID=3\r
"""


def test_the_video_track_is_found_among_others() -> None:
    sdp = parse_sdp(MIXED)
    video = sdp.video()
    assert sdp.control == "rtsp://10.0.0.5/live/" and [media.kind for media in sdp.media] == [
        "audio",
        "video",
        "application",
    ]
    assert video is not None and video.codec == "h264" and video.control == "trackID=1" and video.clock_hz == 90_000
    assert [nal[0] & 0x1F for nal in video.parameter_sets()] == [7, 8]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_parameter_sets_of_both_codecs(codec: str) -> None:
    clip = encode(codec, frames=3)  # type: ignore[arg-type]
    video = parse_sdp(clip.sdp().encode()).video()
    assert video is not None and video.parameter_sets() == clip.sets


@pytest.mark.parametrize("text", ["", "!!!", "Z0IAKeKQGQd/EYC3AQEBpB4kRUA", "AAAAAWdCACnikBkHfxGAtwEBAaQeJEVA,,"])
def test_odd_sprops_are_no_reason_to_fail(text: str) -> None:
    raw = f"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 sprop-parameter-sets={text}\n"
    video = parse_sdp(raw.encode()).video()
    assert video is not None and all(nal[0] & 0x1F == 7 for nal in video.parameter_sets())


def test_no_video_and_unknown_codecs() -> None:
    assert parse_sdp(b"").video() is None
    jpeg = parse_sdp(b"m=video 0 RTP/AVP 26\r\n").video()
    assert jpeg is not None and jpeg.codec is None


@pytest.mark.parametrize(
    ("base", "control", "joined"),
    [
        ("rtsp://h/a/", "track1", "rtsp://h/a/track1"),
        ("rtsp://h/a", "track1", "rtsp://h/a/track1"),
        ("rtsp://h/a", "*", "rtsp://h/a"),
        ("rtsp://h/a", None, "rtsp://h/a"),
        ("rtsp://h/a/b", "/c", "rtsp://h/c"),
        ("rtsp://h/a", "rtsp://other/x", "rtsp://other/x"),
        (
            "rtsp://h/cam/realmonitor?channel=1&subtype=0",
            "trackID=0",
            "rtsp://h/cam/realmonitor?channel=1&subtype=0/trackID=0",
        ),
    ],
)
def test_control_urls(base: str, control: str | None, joined: str) -> None:
    assert join_control(base, control) == joined


@given(st.binary(max_size=400))
def test_hostile_descriptions(raw: bytes) -> None:
    for body in (raw, MIXED + raw, b"m=video 0 RTP/AVP 96\na=fmtp:96 " + raw):
        video = parse_sdp(body).video()
        if video is not None:
            video.parameter_sets()
