"""What cameras of many makers say in OPTIONS, DESCRIBE, SETUP and PLAY, against the real session.

Every dialogue is reconstructed from the public source named beside it. Policies: docs/design/camera_quirks.md.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from tests.ingest.makers.maker import maker
from tests.ingest.rtsp.encoded import decode, encode, interleaved, packets
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, ScriptedCamera, opened


async def plays(camera: ScriptedCamera, path: str = "live", login: str = "", transport: str = "tcp") -> list[str]:
    """All twenty pictures arrive and decode; returns the URIs of the requests by method, `METHOD uri`."""
    async with camera.running():
        async with opened(camera, path, login, transport) as watched:
            units = await watched.wait_for(20)
            assert watched.session.lost_packets == 0
        assert decode(units) == [(320, 180)] * 20
    return [f"{asked.method} {asked.uri}" for asked in camera.asked]


async def test_hikvision_absolute_controls_with_a_query_and_a_space_before_the_ssrc() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/hikvision_describe.txt, hikvision_setup_ssrc_space.txt
    where = "rtsp://192.168.5.106:554/Streaming/Channels/101"
    query = "?transportmode=unicast&profile=Profile_1"
    camera = maker(
        {
            "DESCRIBE": f"""
RTSP/1.0 200 OK
CSeq: {{cseq}}
Content-Type: application/sdp
Content-Base: {where}/
Content-Length: {{length}}

v=0
o=- 1620251477190769 1620251477190769 IN IP4 192.168.5.106
s=Media Presentation
e=NONE
b=AS:5050
t=0 0
a=control:{where}/{query}
m=video 0 RTP/AVP 96
c=IN IP4 0.0.0.0
b=AS:5000
a=recvonly
a=x-dimensions:1920,1080
a=control:{where}/trackID=1{query}
a=rtpmap:96 H264/90000
a=fmtp:96 profile-level-id=420029; packetization-mode=1; sprop-parameter-sets={{sprop}}
m=application 0 RTP/AVP 107
a=control:{where}/trackID=3{query}
a=rtpmap:107 vnd.onvif.metadata/90000
a=Media_header:MEDIAINFO=494D4B48010100000400010000000000000000000000000000000000000000000000000000000000;
""",
            "SETUP": """
RTSP/1.0 200 OK
CSeq: {cseq}
Transport: RTP/AVP/TCP;unicast;interleaved=0-1;ssrc= d6d6627
Session: 708886412;timeout=60

""",
        }
    )
    said = await plays(camera, "Streaming/Channels/101")
    assert f"SETUP {where}/trackID=1{query}" in said and f"PLAY {where}/{query}" in said
    assert said.count("SETUP") == 0 and sum(line.startswith("SETUP") for line in said) == 1


async def test_hikvision_sprop_without_the_pps() -> None:
    # reconstructed: datarhei/restreamer issue 3 (`sprop-parameter-sets=<SPS>,` with nothing behind the comma)
    clip = encode()
    camera = ScriptedCamera(clip=clip)
    camera.sdp = clip.sdp().replace("," + base64.b64encode(clip.sets[1]).decode(), ",")
    await plays(camera)


async def test_hikvision_nvr_without_parameter_sets_and_with_an_fmtp_of_another_payload() -> None:
    # reconstructed: bluenviron/mediamtx issue 3668 (HIK Media Server; audio's fmtp names payload 97, rtpmap 104)
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
Content-Length: {length}
Content-Type: application/sdp

v=0
o=- 1109162014219182 0 IN IP4 0.0.0.0
s=HIK Media Server V5.03.010
i=HIK Media Server Session Description : standard
e=NONE
c=IN IP4 0.0.0.0
b=AS:2080
t=0 0
a=control:*
a=range:npt=now-
m=video 0 RTP/AVP 96
i=Video Media
b=AS:2048
a=recvonly
a=control:trackID=video
a=rtpmap:96 H264/90000
a=fmtp:96 profile-level-id=4D0014;packetization-mode=0
m=audio 0 RTP/AVP 104
a=control:trackID=audio
a=rtpmap:104 MPEG4-GENERIC/16000
a=fmtp:97 streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;config=1408
a=appversion:1.0
"""
        }
    )
    said = await plays(camera, "Streaming/Channels/1")
    assert said[2].endswith("/Streaming/Channels/1/trackID=video")


async def test_dahua_content_base_ends_in_its_query() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/dahua_describe_h264_aac_onvif.txt
    path = "cam/realmonitor?channel=1&subtype=1&unicast=true&proto=Onvif"
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
x-Accept-Dynamic-Rate: 1
Content-Base: {uri}/
Cache-Control: must-revalidate
Content-Length: {length}
Content-Type: application/sdp

v=0
o=- 2252542845 2252542845 IN IP4 0.0.0.0
s=Media Server
c=IN IP4 0.0.0.0
t=0 0
a=control:*
a=packetization-supported:DH
a=rtppayload-supported:DH
a=range:npt=now-
m=video 0 RTP/AVP 96
a=control:trackID=0
a=framerate:15.000000
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1;profile-level-id=64001E;sprop-parameter-sets={sprop}
a=recvonly
m=audio 0 RTP/AVP 97
a=control:trackID=1
a=rtpmap:97 MPEG4-GENERIC/48000
a=recvonly
m=application 0 RTP/AVP 107
a=control:trackID=4
a=rtpmap:107 vnd.onvif.metadata/90000
a=recvonly
""",
            # The SSRC is written in decimal and is not that of the packets: retina dahua_play_decimal_ssrc.txt
            "SETUP": """
RTSP/1.0 200 OK
CSeq: {cseq}
Session: 634214675641;timeout=60
Transport: {transport};ssrc=1384283512
x-Dynamic-Rate: 1

""",
        }
    )
    said = await plays(camera, path)
    assert said[2].endswith(f"{path}/trackID=0")


async def test_amcrest_origin_line_with_a_space_in_the_name() -> None:
    # reconstructed: bluenviron/mediamtx issue 127
    camera = ScriptedCamera()
    camera.sdp = camera.sdp.replace("o=- 0 0 IN IP4 127.0.0.1", "o=RTSP Session 0 0 IN IP4 0.0.0.0")
    await plays(camera, "cam/realmonitor?channel=1&subtype=1")


async def test_uniview_truncated_lines_a_quoted_stale_and_payload_105() -> None:
    # reconstructed: bluenviron/mediamtx issues 5033, 4660, 2348; AlexxIT/go2rtc issue 1663 (H3C, same firmware)
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
Content-Base: {uri}
Content-Length: {length}
Content-Type: application/sdp

v=0
o=- 1001 1 IN
s=VCP IPC Realtime stream
m=video 0 RTP/AVP 105
c=IN
a=control:rtsp://127.0.0.1:{port}/media/video1/video
a=rtpmap:105 H264/90000
a=fmtp:105 profile-level-id=640032; packetization-mode=1; sprop-parameter-sets={sprop}
a=recvonly
m=application 0 RTP/AVP 107
c=IN
a=control:rtsp://127.0.0.1:{port}/media/video1/metadata
a=rtpmap:107 vnd.onvif.metadata/90000
a=fmtp:107 DecoderTag=h3c-v3 RTCP=0
a=recvonly
""",
            "PLAY": _play_as(105),
        },
        login="""
RTSP/1.0 401 ClientUnAuthorized
CSeq: {cseq}
WWW-Authenticate: Digest realm="c479050d9049",nonce="ae239ad9b3eb8e5a526a26d7c1f9bf8c", stale="FALSE"

""",
    )
    said = await plays(camera, "media/video1", "admin:secret@")
    assert f"SETUP rtsp://127.0.0.1:{camera.port}/media/video1/video" in said


async def test_uniview_first_sprop_is_no_parameter_set() -> None:
    # reconstructed: bluenviron/mediamtx issue 2348 ("invalid SPS: not a SPS"): the SEI stands where the SPS should
    clip = encode()
    camera = ScriptedCamera(clip=clip)
    camera.sdp = clip.sdp().replace("sprop-parameter-sets=", "sprop-parameter-sets=BgUK,")
    await plays(camera)


async def test_uniview_h265_without_a_vps_in_sdp() -> None:
    # reconstructed: badbread/crumbvms pull request 596 (IPC6322SR: sprop-sps and sprop-pps, no sprop-vps)
    clip = encode("hevc")
    camera = ScriptedCamera(clip=clip)
    vps = base64.b64encode(clip.sets[0]).decode()
    camera.sdp = clip.sdp().replace(f"sprop-vps={vps};", "")
    await plays(camera)


async def test_tp_link_malformed_media_line_and_two_logins() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/tplink_sdp.txt; koush/scrypted issues 441 and 1014 (VIGI)
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
Content-Type: application/sdp
Content-Base: {uri}/
Content-Length: {length}

v=0
o=- 14665860 31787219 1 IN IP4 192.168.2.29
s=Session streamed by "TP-LINK RTSP Server"
t=0 0
m=video 0 RTP/AVP 96
c=IN IP4 0.0.0.0
b=AS:4096
a=range:npt=0-
a=control:track1
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1; profile-level-id=640032; sprop-parameter-sets={sprop}
m=audio 0 RTP/AVP 8
a=rtpmap:8 PCMA/8000
a=control:track2
m=application/TP-LINK 0 RTP/AVP smart/1/90000
a=rtpmap:95 TP-LINK/90000
a=control:track3
"""
        },
        login="""
RTSP/1.0 401 Unauthorized
CSeq: {cseq}
Date: Sat, Aug 12 2023 01:09:31 GMT
WWW-Authenticate: Basic realm="TP-Link IP-Camera"
WWW-Authenticate: Digest realm="TP-Link IP-Camera", nonce="86c9a2a4bfeca68a90010f9aa9a88ba0"

""",
    )
    said = await plays(camera, "stream1", "admin:secret@")
    assert f"SETUP rtsp://127.0.0.1:{camera.port}/stream1/track1" in said
    assert all(asked.headers.get("authorization", "Digest").startswith("Digest") for asked in camera.asked)


async def test_reolink_content_base_without_the_port() -> None:
    # reconstructed: scottlamb/retina issue 17 (port 554 asked for, none in Content-Base; live555 v2013.04.08)
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
Date: Wed, Aug 25 2021 02:21:10 GMT
Content-Base: rtsp://192.168.1.48/h264Preview_01_main/
Content-Type: application/sdp
Content-Length: {length}

v=0
o=- 1629795645777963 1 IN IP4 192.168.1.48
s=Session streamed by "preview"
i=h264Preview_01_main
t=0 0
a=control:*
a=type:broadcast
a=tool:LIVE555 Streaming Media v2013.04.08
a=range:npt=0-
m=video 0 RTP/AVP 96
c=IN IP4 0.0.0.0
b=AS:500
a=rtpmap:96 H264/90000
a=range:npt=0-
a=fmtp:96 packetization-mode=1;profile-level-id=640033;sprop-parameter-sets={sprop}
a=control:trackID=1
"""
        }
    )
    said = await plays(camera, "h264Preview_01_main")
    # Named as the camera names it, on the connection that there is: nothing is sent to the address.
    assert "SETUP rtsp://192.168.1.48/h264Preview_01_main/trackID=1" in said
    assert camera.connections == 1


async def test_foscam_hisilicon_firmware() -> None:
    # reconstructed: ZoneMinder/zoneminder issue 841 (FI8620: `Cseq`, `Content-length`, a session name of `\\11`)
    camera = maker(
        {
            "OPTIONS": "RTSP/1.0 200 OK\nServer: HiIpcam/V100R003 VodServer/1.0.0\nCseq: {cseq}\n\n",
            "DESCRIBE": """
RTSP/1.0 200 OK
Server: HiIpcam/V100R003 VodServer/1.0.0
Cseq: {cseq}
Content-Type: application/sdp
x-Accept-Retransmit: our-retransmit
Cache-Control: must-revalidate
Content-length: {length}
Content-Base: {uri}/

v=0
o=StreamingServer 3331435948 1116907222000 IN IP4 192.168.253.97
s=\\11
c=IN IP4 0.0.0.0
b=AS:2056
t=0 0
a=range:npt=now-
a=control:*
m=video 0 RTP/AVP 96
b=AS:2048
a=control:trackID=0
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1;profile-level-id=4D400C;sprop-parameter-sets=Z0LgHtoCwEkQ,aM4wpIA=
a=framesize:96 704-576
""",
        }
    )
    # Its SDP tells of 704x576; the SPS in-band is what holds.
    await plays(camera, "11")


async def test_vstarcam_without_content_base_session_control_and_rtp_info() -> None:
    # reconstructed: scottlamb/retina issues 9 and 10, testdata/vstarcam_describe.txt
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
Cseq: {cseq}
Date: Tue, Jul 27 2021 21:49:55 GMT
Content-Type: application/sdp
Content-Length: {length}

v=0
o=VSTC 3836411392 3836411392 IN IP4 192.168.1.198
s=streamed by the VSTARCAM RTSP server
e=NONE
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
b=AS:1536
a=control:track0
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1;profile-level-id=4d002a;sprop-parameter-sets=6QAq,/////w==
m=audio 0 RTP/AVP 8\t{space}
b=AS:64
a=control:track1
a=rtpmap:8 PCMA/8000/1

""",  # the parameter sets of some models are no NAL units at all: retina issue 42
            "PLAY": "RTSP/1.0 200 OK\nCseq: {cseq}\nSession: 1632991860795359396\n\n",
        }
    )
    said = await plays(camera, "tcp/av0_0")
    assert said[2:4] == [
        f"SETUP rtsp://127.0.0.1:{camera.port}/tcp/av0_0/track0",
        f"PLAY rtsp://127.0.0.1:{camera.port}/tcp/av0_0",
    ]


async def test_longse_space_behind_the_cseq_and_no_qop() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/longse_unauthorized.txt
    camera = maker(
        {},
        login="""
RTSP/1.0 401 Unauthorized
CSeq: {cseq}{space}
Server: Rtsp Server 1920*1080*20*2048
WWW-Authenticate: Digest realm="Surveillance Server", nonce="98481030"

""",
    )
    await plays(camera, login="admin:secret@")


async def test_xiongmai_dvr_spaces_and_a_content_base_without_slash() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/h264dvr_describe.txt (H264DVR 1.0)
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
Content-Type: application/sdp
Server: H264DVR 1.0
Cseq: {cseq}
Content-Base: {uri}
Cache-Control: private
x-Accept-Retransmit: our-retransmit
x-Accept-Dynamic-Rate: 1
Content-Length: {length}

v=0
o=- 38990265062388 38990265062388 IN IP4 127.0.0.1
s=RTSP Session
c=IN IP4 192.168.168.100
t=0 0
a=control:*
a=range:npt=0-
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000{space}
a=range:npt=0-
a=framerate:0S
a=fmtp:96 profile-level-id=420029; packetization-mode=1; sprop-parameter-sets={sprop}
a=framerate:25
a=control:trackID=3
m=audio 0 RTP/AVP 8
a=control:trackID=4
"""
        }
    )
    said = await plays(camera, "user=admin&password=&channel=1&stream=0.sdp?")
    assert said[2].endswith("/trackID=3")


async def test_gw_security_parameter_sets_with_a_start_code_behind_them() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/gw_main_describe.txt (each sprop ends in 00 00 00 01)
    clip = encode()

    def play(dialogue: Dialogue, asked: Asked) -> None:
        dialogue.answer(asked)
        for packet in packets(clip, sets=False):
            dialogue.writer.write(interleaved(packet))

    camera = maker({"PLAY": play}, clip=clip)
    for nal in clip.sets:
        dirty = base64.b64encode(nal + b"\0\0\0\1").decode()
        camera.sdp = camera.sdp.replace(base64.b64encode(nal).decode(), dirty)
    async with camera.running(), opened(camera, "H264?channel=1&subtype=0&unicast=true&proto=Onvif") as watched:
        units = await watched.wait_for(20)
    form = units[0].format
    assert (form.sps, form.pps) == (clip.sets[0], clip.sets[1])
    assert [units[0].data[at : at + 4] for at in units[0].nal_offsets] == [b"\0\0\0\1"] * len(units[0].nal_offsets)


async def test_anjvision_content_base_without_a_scheme() -> None:
    # reconstructed: scottlamb/retina src/client/testdata/anjvision_describe.txt
    camera = maker(
        {
            "DESCRIBE": """
RTSP/1.0 200 OK
CSeq: {cseq}
Content-Type: application/sdp
Content-Length: {length}
Content-Base: 192.168.1.10:554/stream0/

v=0
o=- 1109162014219182 1109162014219192 IN IP4 x.y.z.w
s=RTSP/RTP stream from anjvision ipcamera
e=NONE
c=IN IP4 0.0.0.0
a=tool:LIVE555 Streaming Media v2011.05.25 CHAM.LI@ANJVISION.COM
t=0 0
a=range:npt=0-
a=control:*
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=control:trackID=1
a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sprop}
a=x-dimensions: 1280, 720
a=x-framerate: 5
"""
        }
    )
    said = await plays(camera, "stream0")
    assert said[2] == f"SETUP rtsp://127.0.0.1:{camera.port}/stream0/trackID=1"


async def test_rockchip_ssrc_first_and_no_unicast() -> None:
    # reconstructed: scottlamb/retina issue 120 (Luckfox, rkipc)
    setup = """
RTSP/1.0 200 OK
CSeq: {cseq}
Transport: RTP/AVP/TCP;ssrc=22345684;interleaved=0-1
Session: 12345678

"""
    await plays(maker({"SETUP": setup}))


async def test_a_setup_answer_without_transport() -> None:
    # reconstructed: bluenviron/gortsplib issue 456 (path `h264/ch1/main/av_stream`, an older Hikvision)
    setup = "RTSP/1.0 200 OK\nCSeq: {cseq}\nSession: 1 ; timeout = 30\n\n"
    await plays(maker({"SETUP": setup}), "h264/ch1/main/av_stream")


async def test_options_not_implemented_or_without_public() -> None:
    # reconstructed: RFC 2326 makes OPTIONS required, ONVIF devices get by without it
    for options in ("RTSP/1.0 501 Not Implemented\nCSeq: {cseq}\n\n", "RTSP/1.0 200 OK\nCSeq: {cseq}\n\n"):
        await plays(maker({"OPTIONS": options}))


def _play_as(payload_type: int) -> Callable[[Dialogue, Asked], None]:
    def play(dialogue: Dialogue, asked: Asked) -> None:
        dialogue.answer(asked)
        for packet in packets(dialogue.camera.clip):
            changed = packet[:1] + bytes([packet[1] & 0x80 | payload_type]) + packet[2:]
            dialogue.writer.write(interleaved(changed))

    return play
