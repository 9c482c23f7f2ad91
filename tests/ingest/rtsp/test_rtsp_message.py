"""RTSP messages and interleaved framing: every cut of the bytes, sloppy heads, limits, garbage, hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.rtsp.interleaved import MAX_GARBAGE_BYTES, InterleavedReader
from ingest.rtsp.message import MAX_HEAD_BYTES, MessageError, Request, Response, format_request, parse_message
from ingest.rtsp.transport_header import parse_transport
from tests.ingest.rtsp.encoded import encode, feed, interleaved, make, packets

ANSWER = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nWWW-Authenticate: a\r\nwww-authenticate: b\r\nContent-Length: 4\r\n\r\nbody"


def test_every_cut_waits_for_the_rest() -> None:
    for cut in range(len(ANSWER)):
        assert parse_message(ANSWER[:cut]) == (None, 0)
    message, end = parse_message(ANSWER + b"$\0")
    assert isinstance(message, Response) and end == len(ANSWER)
    assert (message.status, message.body, message.headers["www-authenticate"]) == (200, b"body", ["a", "b"])


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"RTSP/1.0 454\r\n\r\n", 454),  # no reason
        (b"RTSP/1.0 200 OK\nCSeq: 1\n\n", 200),  # bare line feeds
        (b"RTSP/1.0 200 OK\r\nbroken line\r\nSession: 1;\r\n timeout=30\r\n\r\n", 200),
    ],
)
def test_sloppy_heads_are_read(raw: bytes, status: int) -> None:
    message, end = parse_message(raw)
    assert isinstance(message, Response) and (message.status, end) == (status, len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"RTSP/1.0 abc OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"RTSP/1.0 200 OK\r\nx: " + b"y" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_no_rtsp_is_said(raw: bytes) -> None:
    with pytest.raises(MessageError):
        parse_message(raw)


def test_requests_go_out_and_come_back() -> None:
    message, _ = parse_message(format_request("OPTIONS", "rtsp://h/a", {"CSeq": "1"}))
    assert isinstance(message, Request) and message.uri == "rtsp://h/a" and message.header("cseq") == "1"


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_hostile_messages(raw: bytes) -> None:
    for data in (raw, b"RTSP/1.0 200 OK\r\n" + raw, b"RTSP/1.0 200 OK\r\nContent-Length:" + raw + b"\r\n\r\n"):
        try:
            _, end = parse_message(data)
        except MessageError:
            continue
        assert 0 <= end <= len(data)


def test_transport_grants() -> None:
    grant = parse_transport('RTP/AVP/TCP;unicast;interleaved=2-3;ssrc=12AB;mode="PLAY"')
    assert grant.channels == (2, 3) and grant.ssrc == 0x12AB
    grant = parse_transport("RTP/AVP;unicast;client_port=1-2;server_port=5000-5001;source=10.0.0.9;ssrc=  xyz")
    assert (grant.server_ports, grant.source, grant.ssrc) == ((5000, 5001), "10.0.0.9", None)
    assert parse_transport("RTP/AVP/TCP;interleaved=4").channels == (4, 5)
    assert parse_transport("RTP/AVP/TCP;interleaved=400-401").channels is None


class Collected:
    """An interleaved reader with a depacketiser behind it."""

    def __init__(self) -> None:
        self.messages: list[Response | Request] = []
        self.reports: list[bytes] = []
        self.depacketiser, self.units = make()
        self.reader = InterleavedReader(self.messages.append, self.reports.append)
        self.reader.rtp_channel, self.reader.rtcp_channel = 0, 1
        self.reader.on_rtp, self.reader.on_run = self.depacketiser.packet, self.depacketiser.run

    def feed(self, data: bytes) -> None:
        self.reader.feed(data)
        self.depacketiser.chunk_done()


def stream() -> bytes:
    made = packets(encode())
    answer = b"RTSP/1.0 200 OK\r\nCSeq: 9\r\n\r\n"
    parts = [interleaved(packet) for packet in made]
    parts.insert(40, answer)
    parts.insert(60, interleaved(b"report", 1))
    parts.insert(80, interleaved(b"audio", 2))
    return b"".join(parts)


WHOLE = stream()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=40))
def test_any_cut_of_the_stream_gives_the_same_units(cuts: list[int]) -> None:
    whole, cut = Collected(), Collected()
    whole.feed(WHOLE)
    at = 0
    for end in [*sorted(cuts), len(WHOLE)]:
        cut.feed(WHOLE[at:end])
        at = end
    assert [unit.data for unit in cut.units] == [unit.data for unit in whole.units]
    assert len(whole.units) == 20 and len(cut.messages) == 1 and cut.reports == [b"report"]
    assert cut.depacketiser.packets == whole.depacketiser.packets == len(packets(encode()))
    assert cut.depacketiser.lost_packets == cut.reader.garbage_bytes == 0


def test_single_bytes() -> None:
    one, whole = Collected(), Collected()
    part = WHOLE[: len(WHOLE) // 2]
    whole.feed(part)
    for at in range(len(part)):
        one.feed(part[at : at + 1])
    assert len(one.units) == len(whole.units) > 0


def test_runs_equal_single_packets() -> None:
    one, other = Collected(), make()
    one.feed(WHOLE)
    feed(other[0], packets(encode()))
    assert [unit.data for unit in one.units] == [unit.data for unit in other[1]]


def test_garbage_between_frames_is_passed_over() -> None:
    made = [interleaved(packet) for packet in packets(encode())]
    half = len(made) // 2
    one = Collected()
    one.feed(b"".join(made[:half]) + bytes(range(32)) * 20 + b"$$$" + b"".join(made[half:]))
    assert len(one.units) >= 19 and one.reader.garbage_bytes > 600


def test_endless_garbage_ends_the_session() -> None:
    one = Collected()
    one.feed(WHOLE)
    with pytest.raises(MessageError):
        for _ in range(MAX_GARBAGE_BYTES // 1000 + 2):
            one.feed(b"\0" * 1000)


def test_http_instead_of_rtsp_is_said() -> None:
    reader = InterleavedReader(lambda message: None, lambda report: None)
    with pytest.raises(MessageError):
        reader.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([WHOLE[:700], WHOLE[:3], b"RTSP/1.0 "])), max_size=12)
)
def test_hostile_streams(pieces: list[bytes]) -> None:
    one = Collected()
    try:
        for piece in pieces:
            one.feed(piece)
    except MessageError:
        return
    assert len(one.reader._rest) < 100_000
