"""WHEP with a real WebRTC peer on the other side: the pictures come through, and every session comes to its end."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import stat
from dataclasses import replace

import httpx
import pytest

from command.wall.media import create_media_app, serve_media
from command.wall.whep_session import WhepLimits

SDP = {"content-type": "application/sdp"}


def steps(numbers: list[int]) -> set[int]:
    return {(b - a) % 100 for a, b in itertools.pairwise(numbers)}


async def test_viewer_sees_the_numbers_that_the_camera_shows_in_order(wall, camera, viewer_of) -> None:
    viewer = viewer_of(wall, "c-1")
    answer = await viewer.watch()
    assert answer.headers["content-type"].startswith("application/sdp")
    assert answer.headers["etag"]
    assert steps([await viewer.number() for _ in range(60)]) == {1}


async def test_media_is_offered_on_loopback_alone_with_the_streams_own_profile(wall, viewer_of) -> None:
    answer = (await viewer_of(wall, "c-1").watch()).text
    addresses = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) \d+ typ host", answer)
    assert addresses == ["127.0.0.1"]
    assert "a=sendonly" in answer
    profiles = re.findall(r"profile-level-id=(\w+)", answer)
    assert profiles[0] == "4d001f"  # the clip is Main


async def test_offer_with_audio_is_answered_with_video(wall, viewer_of) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch(extra_audio=True)
    await viewer.number()


async def test_viewers_share_one_way_to_the_camera_and_the_last_one_closes_it(wall, camera, viewer_of, until) -> None:
    first, second = viewer_of(wall, "c-1"), viewer_of(wall, "c-1")
    await first.watch()
    await first.number()
    await second.watch()
    await second.number()
    assert (camera.open, camera.opened) == (1, 1)
    assert (await wall.stats())["sources"][0]["viewers"] == 2
    assert (await wall.http.delete(first.session)).status_code == 200
    await second.number()
    assert camera.open == 1
    assert (await wall.http.delete(second.session)).status_code == 200
    await until(lambda: camera.open == 0)
    assert (await wall.http.delete(second.session)).status_code == 404
    facts = await wall.stats()
    assert facts["ended"] == {"viewer_left": 2}
    assert facts["sources"] == []


async def test_viewer_that_closes_its_peer_is_gone(wall, camera, viewer_of, until) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    await viewer.number()
    await viewer.close()
    await until(lambda: camera.open == 0)


async def test_viewer_that_is_killed_is_gone_soon(wall, camera, viewer_of, until) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    await viewer.number()
    for protocol in viewer.ice_connection._protocols:
        protocol.transport.abort()  # no goodbye, as kill -9 does it
    await until(lambda: camera.open == 0)
    assert (await wall.stats())["ended"] == {"viewer_silent": 1}


async def test_viewer_that_never_connects_is_dropped(wall, camera, viewer_of, until) -> None:
    viewer = viewer_of(wall, "c-1")
    answer = await wall.http.post(viewer.url, content=await viewer.offer(), headers=SDP)
    assert answer.status_code == 201
    assert camera.open == 1
    await until(lambda: camera.open == 0)
    assert (await wall.stats())["ended"] == {"never_connected": 1}


async def test_lost_packets_are_sent_again(wall, viewer_of) -> None:
    viewer = viewer_of(wall, "c-1")
    answer = await viewer.offer()
    assert answer
    dice = random.Random(1)
    receive = viewer.ice_transport._recv

    async def lossy() -> bytes:
        while True:
            data = await receive()
            if not (127 < data[0] < 192 and dice.random() < 0.03):
                return data

    viewer.ice_transport._recv = lossy
    await viewer.watch_offered()
    numbers = [await viewer.number() for _ in range(60)]
    assert (await wall.stats())["sessions"][0]["retransmitted"] > 0
    assert steps(numbers) == {1}


async def test_viewer_that_asks_for_a_keyframe_gets_the_cached_gop_again(wall, camera, viewer_of, monkeypatch) -> None:
    monkeypatch.setattr("command.wall.rtp_sender.REPLAY_EVERY_S", 0)
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    numbers = [await viewer.number() for _ in range(30)]
    [ssrc] = viewer.video.receiver._RTCRtpReceiver__remote_streams
    await viewer.video.receiver._send_rtcp_pli(ssrc)
    numbers += [await viewer.number() for _ in range(60)]
    [session] = (await wall.stats())["sessions"]
    assert session["keyframe_requests"] >= 1
    assert session["replays"] >= 1
    back = [(a, b) for a, b in itertools.pairwise(numbers) if (b - a) % 100 != 1]
    assert back
    assert all(b % 50 == 0 for _, b in back)  # each starts again at a keyframe


async def test_camera_that_stands_still_is_not_replayed(wall, camera, viewer_of, until, monkeypatch) -> None:
    monkeypatch.setattr("command.wall.rtp_sender.REPLAY_EVERY_S", 0)
    monkeypatch.setattr("command.wall.rtp_sender.REPLAY_WITHIN_S", 0.1)
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    await viewer.number()
    await camera.stop()
    await asyncio.sleep(0.2)
    packets = (await wall.stats())["sessions"][0]["packets"]
    [ssrc] = viewer.video.receiver._RTCRtpReceiver__remote_streams
    await viewer.video.receiver._send_rtcp_pli(ssrc)
    sessions = wall.app.state.sessions
    await until(lambda: sessions.stats()["sessions"][0]["keyframe_requests"])
    assert (await wall.stats())["sessions"][0]["packets"] == packets


async def test_picture_returns_after_the_worker_was_killed(wall, camera, viewer_of, until) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    await viewer.number()
    camera.cut()
    await until(lambda: camera.opened == 2)
    numbers = [await viewer.number() for _ in range(90)]
    assert numbers[-1] != numbers[0]
    [source] = (await wall.stats())["sources"]
    assert source["reopened"] == 1


async def test_stream_that_turns_h265_ends_its_viewers(wall, camera, viewer_of, until, as_h265) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    await viewer.number()
    await as_h265(camera)
    await until(lambda: camera.open == 0)
    assert (await wall.stats())["ended"] == {"wall.h265": 1}


async def test_h265_is_refused_with_the_other_ways(wall, camera, viewer_of, as_h265) -> None:
    await as_h265(camera)
    answer = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
    assert answer.status_code == 406
    assert answer.json()["code"] == "wall.h265"
    assert "c-1" in answer.json()["sentence"]["en"]
    assert answer.json()["other_ways"] == ["keyframes", "sub_stream"]
    assert camera.open == 0


async def test_b_frames_are_refused(wall, camera, viewer_of) -> None:
    await camera.stop()
    unit = camera.clip.unit(0)
    camera.publish(replace(unit, format=replace(unit.format, reorder_depth=2)))
    answer = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
    assert (answer.status_code, answer.json()["code"]) == (406, "wall.b_frames")


async def test_limit_of_sessions(wall, viewer_of) -> None:
    for _ in range(3):
        answer = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
        assert answer.status_code == 201
    refused = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
    assert (refused.status_code, refused.json()["code"]) == (503, "wall.full")
    assert refused.headers["retry-after"]
    assert (await wall.stats())["refused"] == {"wall.full": 1}


async def test_camera_without_picture(wall, camera, viewer_of, until) -> None:
    await camera.stop()
    camera.gop.clear()
    answer = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
    assert (answer.status_code, answer.json()["code"]) == (409, "wall.not_live")
    assert answer.headers["retry-after"]
    assert camera.open == 1  # stays for the viewer's next attempt
    await until(lambda: camera.open == 0)


async def test_viewer_of_a_camera_with_a_long_gop_gets_its_keyframe_at_a_later_attempt(wall, camera, viewer_of) -> None:
    await camera.stop()
    camera.gop.clear()
    offer = await viewer_of(wall, "c-1").offer()
    assert (await wall.http.post("/whep/c-1/main", content=offer, headers=SDP)).status_code == 409
    camera.publish(camera.clip.unit(0))
    assert (await wall.http.post("/whep/c-1/main", content=offer, headers=SDP)).status_code == 201
    assert camera.opened == 1


async def test_cached_pictures_of_a_camera_that_is_gone_are_not_shown_as_live(wall, camera, viewer_of) -> None:
    await camera.stop()
    camera.gop[:] = [replace(unit, received_s=unit.received_s - 60) for unit in camera.gop]
    answer = await wall.http.post("/whep/c-1/main", content=await viewer_of(wall, "c-1").offer(), headers=SDP)
    assert (answer.status_code, answer.json()["code"]) == (409, "wall.not_live")


OFFER_VP8 = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
m=video 9 UDP/TLS/RTP/SAVPF 96
c=IN IP4 0.0.0.0
a=mid:0
a=recvonly
a=rtcp-mux
a=rtpmap:96 VP8/90000
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 AA
a=setup:actpass
"""


@pytest.mark.parametrize(
    ("url", "headers", "body", "status", "code"),
    [
        ("/whep/nobody/main", SDP, OFFER_VP8, 404, "wall.unknown_stream"),
        ("/whep/c-1/third", SDP, OFFER_VP8, 404, "wall.unknown_stream"),
        ("/whep/c-1/main", {"content-type": "application/json"}, "{}", 415, "wall.not_sdp"),
        ("/whep/c-1/main", SDP, "a=x\n" * 20_000, 413, "wall.offer_too_long"),
        ("/whep/c-1/main", SDP, "m=video nonsense", 400, "wall.bad_offer"),
        ("/whep/c-1/main", SDP, b"\xff\xfe", 400, "wall.bad_offer"),
        ("/whep/c-1/main", SDP, OFFER_VP8.replace("a=ice-ufrag:abcd\n", ""), 400, "wall.bad_offer"),
        ("/whep/c-1/main", SDP, "v=0\r\n", 422, "wall.offer_without_video"),
        ("/whep/c-1/main", SDP, OFFER_VP8.replace("recvonly", "sendonly"), 422, "wall.offer_without_video"),
        ("/whep/c-1/main", SDP, OFFER_VP8, 406, "wall.offer_without_h264"),
    ],
)
async def test_requests_that_are_refused(wall, camera, url, headers, body, status, code) -> None:
    answer = await wall.http.post(url, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert all(answer.json()["sentence"].values())
    assert camera.open == 0


async def test_trickle_is_answered_405(wall, viewer_of) -> None:
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    assert (await wall.http.patch(viewer.session, content="")).status_code == 405


async def test_served_on_a_private_socket_that_a_killed_process_may_have_left(wall, tmp_path, until) -> None:
    path = tmp_path / "media.sock"
    path.write_text("left behind")
    stop = asyncio.Event()
    app = create_media_app(wall.open_units, limits=WhepLimits())
    serving = asyncio.create_task(serve_media(path, app, stop))
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://media") as http:
        await until(path.is_socket)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await http.get("/stats")).json()["limit"] == 64
    stop.set()
    await asyncio.wait_for(serving, 5)
    assert not path.exists()
