"""WHEP with a real WebRTC peer on the other side: the pictures come through, and every session comes to its end."""

from __future__ import annotations


async def test_viewer_sees_the_numbers_that_the_camera_shows_in_order(wall, camera, viewer_of) -> None:
    viewer = viewer_of(wall, "c-1")
    answer = await viewer.watch()
    assert answer.headers["content-type"].startswith("application/sdp")
    assert answer.headers["etag"]
    numbers = [await viewer.number() for _ in range(60)]
    steps = {(b - a) % 100 for a, b in zip(numbers, numbers[1:])}
    assert steps == {1}
