"""The UDP window: order restored, duplicates dropped, loss exact, restarts followed."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.rtsp.reorder import WAIT_S, WINDOW, ReorderWindow
from tests.ingest.rtsp.encoded import encode, make, packets, rtp


class Delivered:
    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.window = ReorderWindow(lambda d, s, e: self.numbers.append(int.from_bytes(d[2:4], "big")))

    def add(self, number: int, now_s: float = 0.0) -> None:
        self.window.add(rtp(b"x", number, 0), now_s)


@example(first=0, lost=set(), late_by={}, doubled={172, 173, 174})
@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 65_535),
    st.sets(st.integers(1, 298), max_size=20),
    st.dictionaries(st.integers(0, 299), st.integers(1, 20), max_size=60),
    st.sets(st.integers(0, 299), max_size=30),
)
def test_order_is_restored(first: int, lost: set[int], late_by: dict[int, int], doubled: set[int]) -> None:
    one = Delivered()
    sent = [n for n in range(300) if n not in lost]
    arriving = sorted(sent, key=lambda n: n + (late_by.get(n, 0) if n else 0) + 0.5 * bool(n in late_by))
    for n in arriving:
        one.add((first + n) & 0xFFFF)
        if n in doubled:
            one.add((first + n) & 0xFFFF)
    for second in range(10, 400):
        one.window.tick(float(second))
    assert one.numbers == [(first + n) & 0xFFFF for n in sent]
    assert one.window.late_packets == len(doubled & set(sent))


def test_a_gap_is_given_up_in_time() -> None:
    one = Delivered()
    one.add(0, 1.0)
    one.add(2, 1.01)
    one.window.tick(1.05)
    assert one.numbers == [0]
    one.window.tick(1.01 + WAIT_S)
    assert one.numbers == [0, 2]
    one.add(1, 1.2)
    assert one.numbers == [0, 2] and one.window.late_packets == 1


def test_a_gap_is_given_up_when_the_window_is_full() -> None:
    one = Delivered()
    one.add(0)
    for n in range(2, WINDOW + 2):
        one.add(n)
    assert one.numbers == [0, *range(2, WINDOW + 2)] and not one.window._held


def test_a_restarted_sender_is_followed() -> None:
    one = Delivered()
    for n in range(50_000, 50_010):
        one.add(n)
    for n in range(10, 20):
        one.add(n)
    assert one.numbers == [*range(50_000, 50_010), *range(12, 20)]


def test_units_over_a_lossy_reordering_network() -> None:
    depacketiser, units = make()
    window = ReorderWindow(depacketiser.packet)
    made = packets(encode(), first_sequence=65_000)
    swapped = [made[i ^ 1] if i ^ 1 < len(made) and i > 1 else made[i] for i in range(len(made))]
    for packet in swapped:
        window.add(packet, 0.0)
    assert len(units) == 20 and depacketiser.lost_packets == 0
