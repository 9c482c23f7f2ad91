"""The simulator's RTSP dialogue: methods, sessions, Digest, and media that never jumps."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time

import pytest

from ingest.errors import GridwatchError
from ingest.simulate import ClipLibrary, SimCamera, SimulatedTown, source_hash
from ingest.simulate.frame_number import read_frame_mark


async def test_options_describe_setup_play_get_parameter_teardown(town, connect) -> None:
    async with connect(town.url("cam-1")) as client:
        assert "GET_PARAMETER" in (await client.ask("OPTIONS")).one("public")
        described = await client.ask("DESCRIBE")
        assert described.one("content-type") == "application/sdp"
        assert "a=rtpmap:96 H264/90000" in described.body and "sprop-parameter-sets=" in described.body
        played = await client.play()
        assert "rtptime=" in played.one("rtp-info")
        frame = await client.frame()
        assert f"seq={frame[0].sequence};rtptime={frame[0].rtp_time}" in played.one("rtp-info")
        assert (await client.ask("GET_PARAMETER")).status == 200
        assert (await client.ask("TEARDOWN")).status == 200
        assert await client.closed()
    assert town.playing("cam-1") == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [("cam-1/third", 404), ("nobody/main", 404), ("cam-1/main?gop_s=7", 400), ("cam-1/main?gpo_s=4", 400)],
)
async def test_what_is_not_there(town, connect, path: str, status: int) -> None:
    async with connect(f"rtsp://127.0.0.1:{town.port}/{path}") as client:
        assert (await client.ask("DESCRIBE")).status == status


async def test_wrong_session_transport_and_method(town, connect) -> None:
    async with connect(town.url("cam-1")) as client:
        assert (await client.ask("PLAY")).status == 454
        assert (await client.ask("SETUP", headers={"Transport": "RTP/AVP;multicast"})).status == 461
        assert (await client.ask("RECORD")).status == 405


@pytest.mark.parametrize("hostile", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 20000, b"OPTIONS\r\n\r\n"])
async def test_bytes_that_are_no_rtsp_end_the_connection(town, connect, hostile: bytes) -> None:
    async with connect(town.url("cam-1")) as client:
        client.writer.write(hostile)
        assert await client.closed()


@pytest.mark.parametrize("offered", [0, 1])
async def test_digest_lets_the_right_password_in_only(town, connect, offered: int) -> None:
    async with connect(town.url("locked")) as client:
        refused = await client.ask("DESCRIBE")
        assert refused.status == 401
        challenge = refused.all("www-authenticate")[offered]
        assert ("SHA-256", "MD5")[offered] in challenge
        wrong = await client.ask("DESCRIBE", headers=client.proof("DESCRIBE", challenge, "wrong"))
        assert wrong.status == 401
        for_other_method = await client.ask("DESCRIBE", headers=client.proof("SETUP", challenge, "s3cret/ü"))
        assert for_other_method.status == 401
        right = await client.ask("DESCRIBE", headers=client.proof("DESCRIBE", challenge, "s3cret/ü"))
        assert right.status == 200


async def test_one_algorithm_only(clips: ClipLibrary, connect) -> None:
    camera = SimCamera("c", scene="quiet", user="user", password="p", digest="sha-256")
    async with SimulatedTown([camera], clips=clips) as town, connect(town.url("c")) as client:
        challenges = (await client.ask("DESCRIBE")).all("www-authenticate")
        assert len(challenges) == 1 and "algorithm=SHA-256" in challenges[0]


async def test_a_camera_with_one_session_answers_453_to_the_second(clips: ClipLibrary, connect) -> None:
    camera = SimCamera("c", scene="quiet", max_sessions=1)
    async with (
        SimulatedTown([camera], clips=clips) as town,
        connect(town.url("c")) as first,
        connect(town.url("c")) as second,
    ):
        await first.play()
        refused = await second.ask("SETUP", headers={"Transport": "RTP/AVP/TCP;interleaved=0-1"})
        assert refused.status == 453
        assert (await first.ask("TEARDOWN")).status == 200
        await first.closed()
        again = await second.ask("SETUP", headers={"Transport": "RTP/AVP/TCP;interleaved=0-1"})
        assert again.status == 200


async def test_a_session_without_keep_alive_ends_at_its_timeout(clips: ClipLibrary, connect) -> None:
    town_of_one = SimulatedTown([SimCamera("c", scene="quiet")], clips=clips, session_timeout_s=0.5)
    async with town_of_one as town, connect(town.url("c")) as client:
        await client.play()
        began = time.monotonic()
        assert await client.closed()
        assert 0.4 < time.monotonic() - began < 3


async def test_time_sequence_and_frame_number_go_on_over_the_loop(town, connect) -> None:
    """The scene `still` is one second long: two seconds cross its end."""
    async with connect(town.url("cam-1", scene="still", profile="tiny")) as client:
        await client.play()
        frames = [await client.frame() for _ in range(45)]
    packets = [packet for frame in frames for packet in frame]
    assert {after.sequence - before.sequence & 0xFFFF for before, after in itertools.pairwise(packets)} == {1}
    times = [frame[0].rtp_time for frame in frames]
    assert {after - before & 0xFFFFFFFF for before, after in itertools.pairwise(times)} == {3600}
    numbers = [next(p.number for p in frame if p.number is not None) for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 45))
    assert len({packet.data[8:12] for packet in packets}) == 1


async def test_near_wrap_wraps_both_after_ten_seconds(town, connect) -> None:
    async with connect(town.url("cam-1", near_wrap=True)) as client:
        await client.play()
        first = await client.rtp()
        assert 0xFFFFFFFF - first.rtp_time == pytest.approx(10 * 90000, abs=2)
        (feed,) = [feed for key, feed in town.live("cam-1").feeds.items() if "near_wrap" in key[1]]
        units = feed.home.units
        per_second = sum(len(unit.packet_offsets) for unit in units) / feed.home.duration_s
        assert 0x10000 - first.sequence == pytest.approx(10 * per_second, rel=0.05)


async def test_main_and_sub_show_the_same_moment(town, connect) -> None:
    async with connect(town.url("cam-1", "main")) as main, connect(town.url("cam-1", "sub")) as sub:
        await main.play()
        await sub.play()
        main_frame, sub_frame = await main.frame(), await sub.frame()
        main_number = next(p.number for p in main_frame if p.number is not None)
        sub_number = next(p.number for p in sub_frame if p.number is not None)
        assert abs(main_number / 25 - sub_number / 12) < 0.1


async def test_marks_name_their_stream(town, connect) -> None:
    async with connect(town.url("cam-1", "sub")) as client:
        await client.play()
        mark = read_frame_mark(b"".join(packet.data for packet in await client.frame()))
        assert mark is not None and mark.source == source_hash("cam-1", "sub")


@pytest.mark.parametrize(("place", "in_sdp", "in_band"), [("both", 1, 1), ("sdp", 1, 0), ("inband", 0, 1)])
async def test_where_parameter_sets_are_sent(town, connect, place: str, in_sdp: int, in_band: int) -> None:
    async with connect(town.url("cam-1", parameter_sets=place)) as client:
        assert ("sprop-parameter-sets" in (await client.ask("DESCRIBE")).body) == bool(in_sdp)
        await client.play()
        kinds = {packet.data[12] & 0x1F for packet in await client.frame()}
        assert ({7, 8} <= kinds) == bool(in_band)


async def test_two_clients_get_the_same_packets_and_the_second_begins_at_a_keyframe(town, connect) -> None:
    async with connect(town.url("cam-1")) as one, connect(town.url("cam-1")) as two:
        await one.play()
        await one.frame()
        answer = await two.play("RTP/AVP/TCP;unicast;interleaved=6-7")
        assert not answer.all("rtp-info")
        seen_by_two = [packet for _ in range(3) for packet in await two.frame()]
        assert seen_by_two[0].data[12] & 0x1F == 7 and seen_by_two[0].channel == 6
        wanted = {packet.data for packet in seen_by_two}
        seen_by_one: set[bytes] = set()
        while not wanted <= seen_by_one:
            seen_by_one.add((await one.rtp()).data)


async def test_sender_reports_tie_rtp_time_to_the_camera_clock(clips: ClipLibrary, connect) -> None:
    camera = SimCamera("c", scene="drawn", clock_offset_s=3600)
    async with SimulatedTown([camera], clips=clips) as town, connect(town.url("c")) as client:
        await client.play()
        packets = [await client.packet() for _ in range(10)]
        report = next(packet for packet in packets if packet.channel == 1).data
        first = next(packet for packet in packets if packet.channel == 0)
        _, kind, _, ssrc, seconds, _, rtp_time, sent, _ = struct.unpack(">BBHIIIIII", report)
        assert kind == 200 and ssrc == int.from_bytes(first.data[8:12]) and sent > 0
        assert seconds - 2208988800 - 3600 == pytest.approx(time.time(), abs=5)
        assert (rtp_time - first.rtp_time) & 0xFFFFFFFF < 5 * 90000 or rtp_time == first.rtp_time


async def test_udp_media_and_reports_come_to_the_client_ports(town, connect) -> None:
    loop = asyncio.get_running_loop()
    got: dict[str, asyncio.Queue[bytes]] = {"rtp": asyncio.Queue(), "rtcp": asyncio.Queue()}

    class Port(asyncio.DatagramProtocol):
        def __init__(self, name: str) -> None:
            self.name = name

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            got[self.name].put_nowait(data)

    for port in range(41000, 48000, 2):  # a free even pair
        try:
            rtp, _ = await loop.create_datagram_endpoint(lambda: Port("rtp"), ("127.0.0.1", port))
            rtcp, _ = await loop.create_datagram_endpoint(lambda: Port("rtcp"), ("127.0.0.1", port + 1))
            break
        except OSError:
            continue
    async with connect(town.url("cam-1")) as client:
        await client.play(f"RTP/AVP;unicast;client_port={port}-{port + 1}")
        first = await asyncio.wait_for(got["rtp"].get(), 5)
        assert first[0] == 0x80 and first[1] & 0x7F == 96
        assert (await asyncio.wait_for(got["rtcp"].get(), 5))[1] == 200
        assert (await client.ask("TEARDOWN")).status == 200
    rtp.close()
    rtcp.close()


async def test_frames_sent_is_what_arrived(town, connect) -> None:
    async with connect(town.url("cam-1")) as client:
        await client.play()
        frames = [await client.frame() for _ in range(20)]
        numbers = [next(p.number for p in frame if p.number is not None) for frame in frames]
        assert numbers == list(range(numbers[0], numbers[0] + 20))
        assert town.frames_sent("cam-1") >= 20
        assert town.counters("cam-1").last_number - numbers[0] + 1 == town.frames_sent("cam-1")


async def test_a_client_that_does_not_read_loses_frames_and_nobody_else_does(town, connect) -> None:
    async with connect(town.url("cam-1")) as reading, connect(town.url("cam-1")) as deaf:
        await reading.play()
        await deaf.play()
        (connection,) = [c for c in town.connections if c._transport.get_extra_info("peername")[1] == _port(deaf)]
        connection.pause_writing()  # what the transport says when the client's buffers are full
        frames = [await reading.frame() for _ in range(20)]
        numbers = [next(p.number for p in frame if p.number is not None) for frame in frames]
        assert numbers == list(range(numbers[0], numbers[0] + 20))
        assert town.counters("cam-1").frames_dropped > 0


def _port(client) -> int:
    return client.writer.get_extra_info("sockname")[1]


async def test_problems_are_named_at_the_start(clips: ClipLibrary) -> None:
    with pytest.raises(GridwatchError, match=r"simulate\.no_clip.*huge"):
        async with SimulatedTown([SimCamera("c", main="huge")], clips=clips):
            pass
    with pytest.raises(GridwatchError, match=r"simulate\.camera_twice"):
        async with SimulatedTown([SimCamera("c"), SimCamera("c")], clips=clips):
            pass
    async with SimulatedTown([SimCamera("c")], clips=clips) as town:
        with pytest.raises(GridwatchError, match=rf"simulate\.port_taken.*{town.port}"):
            async with SimulatedTown([SimCamera("d")], town.port, clips=clips):
                pass
