"""Dialogues byte for byte: logins, redirects, control URLs, quirks after documented cameras, ends of sessions.

The cameras' deviations are reconstructed from public descriptions, not captured.
"""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from ingest.errors import sentence
from ingest.health import CameraState
from ingest.rtsp import Patience, SessionError
from ingest.rtsp import session as session_module
from ingest.rtsp.errors import STATES
from tests.ingest.rtsp.encoded import decode, encode, interleaved, packets, rtp
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, ScriptedCamera, Watched, opened


async def refused(camera: ScriptedCamera, path: str = "live", login: str = "", transport: str = "tcp") -> SessionError:
    async with camera.running():
        watched = Watched(camera.url(path, login), transport, Patience(1, 0.3, 0.3))
        with pytest.raises(SessionError) as caught:
            await watched.session.open()
    for lang in ("zh", "en"):
        text = caught.value.sentence(lang)
        assert "{" not in text and "secret" not in text, text
    return caught.value


async def test_a_plain_session() -> None:
    async with ScriptedCamera().running() as camera:
        async with opened(camera) as watched:
            units = await watched.wait_for(20)
        assert decode(units) == [(320, 180)] * 20
    assert camera.methods == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN"]
    assert camera.asked[2].uri == f"rtsp://127.0.0.1:{camera.port}/live/track1"
    assert camera.asked[2].headers["transport"] == "RTP/AVP/TCP;unicast;interleaved=0-1"
    assert [asked.headers.get("session") for asked in camera.asked] == [None, None, None, "77", "77"]
    assert [asked.headers["cseq"] for asked in camera.asked] == ["1", "2", "3", "4", "5"]


async def test_h265_and_audio_that_is_not_set_up() -> None:
    clip = encode("hevc")
    camera = ScriptedCamera(clip=clip)
    camera.sdp = clip.sdp() + "m=audio 0 RTP/AVP 8\r\na=control:track2\r\n"
    async with camera.running(), opened(camera) as watched:
        assert decode(await watched.wait_for(20)) == [(320, 180)] * 20
    assert camera.methods.count("SETUP") == 1


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_digest(algorithm: str) -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if f"algorithm={algorithm}" in asked.headers.get("authorization", "algorithm=") or (
            algorithm == "MD5" and asked.headers.get("authorization", "").startswith("Digest")
        ):
            return False
        offers = [
            f'WWW-Authenticate: Digest realm="r", nonce="n1", algorithm={algorithm}',
            'WWW-Authenticate: Basic realm="r"',
        ]
        dialogue.answer(asked, "401 Unauthorized", *offers)
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera, login="admin:secret@") as watched:
        await watched.wait_for(20)
        assert camera.methods[:3] == ["OPTIONS", "OPTIONS", "DESCRIBE"]
        assert "secret" not in str(camera.asked) and "Basic" not in str(camera.asked)
        assert "@" not in camera.asked[0].uri


async def test_a_stale_nonce_is_renewed_once_and_a_wrong_password_is_not_tried_twice() -> None:
    tries = 0

    def stale_script(dialogue: Dialogue, asked: Asked) -> bool:
        said = asked.headers.get("authorization", "")
        if 'nonce="n2"' in said:
            return False
        stale = ", stale=true" if "n1" in said else ""
        dialogue.answer(
            asked, "401 Unauthorized", f'WWW-Authenticate: Digest realm="r", nonce="n{1 + bool(stale)}"{stale}'
        )
        return True

    async with ScriptedCamera(stale_script).running() as camera, opened(camera, login="u:p@") as watched:
        await watched.wait_for(20)

    def wrong_script(dialogue: Dialogue, asked: Asked) -> bool:
        nonlocal tries
        tries += "authorization" in asked.headers
        dialogue.answer(
            asked, "401 Unauthorized", f'WWW-Authenticate: Digest realm="r", nonce="{len(dialogue.camera.asked)}"'
        )
        return True

    error = await refused(ScriptedCamera(wrong_script), login="u:secret@")
    assert (error.code, error.state, tries) == ("camera.unauthorised", CameraState.UNAUTHORISED, 1)
    error = await refused(ScriptedCamera(wrong_script))
    assert error.code == "camera.no_credentials"


async def test_a_camera_that_closes_behind_its_401() -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if "authorization" in asked.headers:
            return False
        dialogue.answer(asked, "401 Unauthorized", 'WWW-Authenticate: Digest realm="r", nonce="n"')
        dialogue.writer.close()
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera, login="u:p@") as watched:
        await watched.wait_for(20)
        assert camera.connections == 2


async def test_redirects() -> None:
    target = ScriptedCamera()

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.answer(asked, "302 Moved", f"Location: rtsp://127.0.0.1:{target.port}/other")
        return True

    async with target.running(), ScriptedCamera(script).running() as camera, opened(camera) as watched:
        await watched.wait_for(20)
        assert target.asked[1].uri.endswith("/other")


async def test_redirects_in_a_circle_and_to_elsewhere() -> None:
    def circle(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.answer(asked, "301 Moved", f"Location: {asked.uri}")
        return True

    def web(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.answer(asked, "302 Found", "Location: http://example.org/")
        return True

    assert (await refused(ScriptedCamera(circle))).code == "camera.redirected_away"
    assert (await refused(ScriptedCamera(web))).code == "camera.redirected_away"


async def test_basic_login_does_not_follow_to_another_host() -> None:
    def asks(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.answer(asked, "401 Unauthorized", 'WWW-Authenticate: Basic realm="r"')
        return True

    thief = ScriptedCamera(asks)

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.answer(asked, "302 Found", f"Location: rtsp://localhost:{thief.port}/x")
        return True

    async with thief.running():
        error = await refused(ScriptedCamera(script), login="u:secret@")
    assert error.code == "camera.redirected_away"
    assert not any("authorization" in asked.headers for asked in thief.asked)


async def test_missing_content_base_and_a_query_in_the_path() -> None:
    """Dahua's path; the control attribute goes behind the query."""

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "DESCRIBE":
            dialogue.answer(asked, body=dialogue.camera.sdp)
            return True
        return False

    async with (
        ScriptedCamera(script).running() as camera,
        opened(camera, "cam/realmonitor?channel=1&subtype=0") as watched,
    ):
        await watched.wait_for(20)
    assert camera.asked[2].uri.endswith("/cam/realmonitor?channel=1&subtype=0/track1")
    assert camera.asked[3].uri.endswith("/cam/realmonitor?channel=1&subtype=0")


async def test_absolute_control_urls() -> None:
    camera = ScriptedCamera()
    camera.sdp = camera.clip.sdp(control="rtsp://10.1.1.1/inside/trackID=1").replace(
        "a=control:*", "a=control:rtsp://10.1.1.1/inside"
    )
    async with camera.running(), opened(camera) as watched:
        await watched.wait_for(20)
    assert [asked.uri for asked in camera.asked[2:4]] == ["rtsp://10.1.1.1/inside/trackID=1", "rtsp://10.1.1.1/inside"]


@pytest.mark.parametrize("status", ["459 Aggregate Operation Not Allowed", "460 Only Aggregate", "404 Not Found"])
async def test_aggregate_play_refused(status: str) -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "PLAY" and not asked.uri.endswith("track1"):
            dialogue.answer(asked, status)
            return True
        return False

    async with ScriptedCamera(script).running() as camera, opened(camera) as watched:
        await watched.wait_for(20)


async def test_other_channels_than_asked_for() -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "SETUP":
            dialogue.answer(asked, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=4-5", "Session: 1")
        elif asked.method == "PLAY":
            dialogue.answer(asked)
            dialogue.play(channel=4)
        else:
            return False
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera) as watched:
        await watched.wait_for(20)


async def test_answers_without_cseq_and_media_before_the_answer_to_play() -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "PLAY":
            dialogue.play()
            dialogue.answer(asked, cseq=False)
        elif asked.method == "OPTIONS":
            dialogue.answer(asked, cseq=False)
        else:
            return False
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera) as watched:
        assert len(await watched.wait_for(20)) == 20


async def test_the_servers_own_requests_are_answered() -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "PLAY":
            dialogue.answer(asked)
            dialogue.writer.write(b"OPTIONS * RTSP/1.0\r\nCSeq: 900\r\n\r\n")
            dialogue.play()
            return True
        return False

    async with ScriptedCamera(script).running() as camera, opened(camera) as watched:
        await watched.wait_for(20)
        assert watched.session.depacketiser is not None and watched.session.depacketiser.lost_packets == 0


@pytest.mark.parametrize(
    ("method", "status", "code", "state"),
    [
        ("DESCRIBE", "404 Not Found", "camera.not_found", CameraState.NOT_FOUND),
        ("SETUP", "453 Not Enough Bandwidth", "camera.session_limit", CameraState.SESSION_LIMIT),
        ("DESCRIBE", "503 Service Unavailable", "camera.session_limit", CameraState.SESSION_LIMIT),
        ("SETUP", "461 Unsupported Transport", "camera.transport_refused", CameraState.BAD_STREAM),
        ("PLAY", "454 Session Not Found", "camera.session_lost", CameraState.CONNECTING),
        ("PLAY", "500 Oops", "camera.bad_status", CameraState.BAD_STREAM),
    ],
)
async def test_refusals_have_their_states(method: str, status: str, code: str, state: CameraState) -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == method:
            dialogue.answer(asked, status)
            return True
        return False

    error = await refused(ScriptedCamera(script))
    assert (error.code, error.state) == (code, state)


@pytest.mark.parametrize(
    ("sdp", "code"),
    [
        ("v=0\r\nm=audio 0 RTP/AVP 8\r\n", "camera.no_video"),
        ("v=0\r\nm=video 0 RTP/AVP 26\r\n", "camera.codec"),
        ("v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=2\r\n", "camera.codec"),
    ],
)
async def test_what_cannot_be_read_is_said(sdp: str, code: str) -> None:
    camera = ScriptedCamera()
    camera.sdp = sdp
    assert (await refused(camera)).code == code


async def test_no_rtsp_silence_and_hanging_up() -> None:
    def http(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return True

    def silent(dialogue: Dialogue, asked: Asked) -> bool:
        return True

    def hangs_up(dialogue: Dialogue, asked: Asked) -> bool:
        dialogue.writer.close()
        return True

    assert (await refused(ScriptedCamera(http))).code == "camera.bad_answer"
    error = await refused(ScriptedCamera(silent))
    assert (error.code, error.state) == ("camera.no_answer", CameraState.STALLED)
    error = await refused(ScriptedCamera(hangs_up))
    assert (error.code, error.state) == ("camera.closed_at_once", CameraState.REFUSED)


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        camera = ScriptedCamera()
        camera.port = server.getsockname()[1]
    watched = Watched(camera.url())
    with pytest.raises(SessionError) as caught:
        await watched.session.open()
    assert caught.value.state is CameraState.REFUSED


async def test_keep_alive_and_a_forgotten_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "KEEP_ALIVE_FRACTION", 0.02)
    answered = 0

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        nonlocal answered
        if asked.method == "SETUP":
            dialogue.answer(asked, "200 OK", f"Transport: {asked.headers['transport']}", "Session: 5;timeout=5")
        elif asked.method == "GET_PARAMETER":
            dialogue.answer(asked, "501 Not Implemented")
        elif asked.method == "OPTIONS" and "session" in asked.headers:
            answered += 1
            dialogue.answer(asked, "200 OK" if answered < 3 else "454 Session Not Found")
        else:
            return False
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera) as watched:
        why = await asyncio.wait_for(watched.session.ended(), 10)
    assert why.code == "camera.session_lost"
    assert camera.methods[4:8] == ["GET_PARAMETER", "OPTIONS", "OPTIONS", "OPTIONS"]


@pytest.mark.parametrize(
    ("how", "code"), [("close", "camera.connection_lost"), ("bye", "camera.ended"), ("junk", "camera.bad_answer")]
)
async def test_how_a_session_ends(how: str, code: str) -> None:
    async with ScriptedCamera().running() as camera, opened(camera) as watched:
        await watched.wait_for(20)
        writer = camera.writers[0]
        if how == "close":
            writer.transport.abort()
        elif how == "bye":
            writer.write(interleaved(struct.pack(">BBHI", 0x81, 203, 1, 7), 1))
        else:
            writer.write(b"\0" * 300_000)
        assert (await asyncio.wait_for(watched.session.ended(), 10)).code == code


async def test_sender_reports_tell_the_cameras_clock() -> None:
    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "PLAY":
            dialogue.answer(asked)
            ahead = 2_208_988_800 + int(dialogue.camera.started) + 7200
            dialogue.play()
            dialogue.writer.write(interleaved(struct.pack(">BBHIIIIII", 0x80, 200, 6, 7, ahead, 0, 0, 1, 1), 1))
            dialogue.writer.write(interleaved(rtp(b"\x41\x9a", 60_000, 10**6), 0))
            return True
        return False

    import time

    camera = ScriptedCamera(script)
    camera.started = time.time()  # type: ignore[attr-defined]
    async with camera.running(), opened(camera) as watched:
        await watched.wait_for(20)
        async with asyncio.timeout(5):
            while watched.session.clock_offset_s is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert watched.session.clock_offset_s == pytest.approx(7200, abs=3)


async def test_udp_with_loss_and_swaps() -> None:
    clip = encode()
    made = packets(clip)
    lost = {len(made) // 2}
    sent: list[bytes] = [made[0]]
    for index in range(1, len(made) - 1, 2):  # neighbours swapped
        sent += [made[i] for i in (index + 1, index) if i not in lost]
    reports: list[bytes] = []

    async def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method == "SETUP":
            port = int(asked.headers["transport"].split("client_port=")[1].split("-")[0])
            assert port % 2 == 0
            sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            dialogue.camera.udp = (port, sockets)  # type: ignore[attr-defined]
            numbers = "-".join(str(one.getsockname()[1]) for one in sockets)
            granted = f"RTP/AVP;unicast;client_port={port}-{port + 1};server_port={numbers};source=127.0.0.1"
            dialogue.answer(asked, "200 OK", f"Transport: {granted}", "Session: 9")
        elif asked.method == "PLAY":
            dialogue.answer(asked)
            await dialogue.writer.drain()
            port, sockets = dialogue.camera.udp  # type: ignore[attr-defined]
            sockets[1].settimeout(1)
            reports.append(sockets[1].recv(2000))  # the client speaks first, for the firewalls between
            for number, packet in enumerate(sent):
                sockets[0].sendto(packet, ("127.0.0.1", port))
                if number % 20 == 0:
                    await asyncio.sleep(0.002)
        else:
            return False
        return True

    async with ScriptedCamera(script).running() as camera, opened(camera, transport="udp") as watched:
        units = await watched.wait_for(15)
        depacketiser = watched.session.depacketiser
        assert depacketiser is not None and depacketiser.lost_packets == 1
        assert len(units) >= 15 and reports[0][1] == 201
        for one in camera.udp[1]:  # type: ignore[attr-defined]
            one.close()


def test_every_reason_has_a_sentence_in_both_languages() -> None:
    for code in STATES:
        for lang in ("zh", "en"):
            assert not sentence(code, lang).startswith(code), code
