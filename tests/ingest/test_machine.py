"""Machine limits: the kernel's own counters on this machine, and sentences that name the line that lifts a limit."""

from __future__ import annotations

import resource
import socket

import pytest

import ingest.machine
from ingest.machine import (
    Need,
    ServerClock,
    UdpDrops,
    granted_receive_buffer,
    limits,
    open_files_limit,
    server_clock,
    take_open_files,
)


def test_the_soft_limit_of_open_files_becomes_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert take_open_files() == open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_need_beyond_the_hard_limit_is_named_with_its_remedy() -> None:
    too_many = Need(streams=open_files_limit(), recorded=0)
    found = {limit.name: limit for limit in limits(too_many)}["open_files"]
    assert found.ok is False
    assert f"LimitNOFILE={too_many.open_files}" in found.sentence("zh")
    assert f"LimitNOFILE={too_many.open_files}" in found.sentence("en")


def test_a_receive_buffer_is_read_back_not_believed() -> None:
    assert granted_receive_buffer(64 << 10) == 64 << 10
    assert granted_receive_buffer(1 << 30) < 1 << 30


def test_a_small_receive_buffer_matters_to_udp_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.machine, "granted_receive_buffer", lambda: 212_992)
    for udp in (True, False):
        found = {limit.name: limit for limit in limits(Need(4, udp=udp))}["receive_buffer"]
        assert found.ok is not udp
        assert "net.core.rmem_max=2097152" in found.sentence("en")


def test_the_kernels_udp_drops_are_counted_and_outlive_their_socket() -> None:
    drops = UdpDrops()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.bind(("127.0.0.1", 0))
        assert drops.sample() == 0
        for _ in range(50):
            sender.sendto(bytes(1400), receiver.getsockname())
        counted = drops.sample()
    assert 30 < counted < 50
    assert drops.sample() == counted
    assert str(counted) in {limit.name: limit for limit in limits(Need(1), counted)}["udp_drops"].sentence("en")


def test_the_server_clock_is_asked_from_the_kernel() -> None:
    clock = server_clock()
    assert clock.synchronised is not None or clock.why
    assert clock.max_error_s is None or clock.max_error_s >= 0


@pytest.mark.parametrize(
    ("clock", "ok", "word"),
    [
        (ServerClock(True, 0.01), True, "synchronised"),
        (ServerClock(False, 16.0), False, "set-ntp"),
        (ServerClock(None, why="EPERM"), None, "EPERM"),
    ],
)
def test_the_clock_is_said_in_every_case(
    clock: ServerClock, ok: bool | None, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.machine, "server_clock", lambda: clock)
    found = {limit.name: limit for limit in limits(Need(1))}["clock"]
    assert found.ok is ok
    assert word in found.sentence("en")
    assert found.as_json()["ok"] is ok
