from __future__ import annotations

import dataclasses
import random

import cv2
import numpy as np
import pytest

from analytics.decode import DecodeError, KeyframeDecoder


def gradient(width=640, height=360):
    across = np.linspace(0, 255, width, dtype=np.uint8)
    return np.dstack(
        [np.tile(across, (height, 1)), np.full((height, width), 90, np.uint8), np.tile(across[::-1], (height, 1))]
    )


def test_h264_and_h265_share_a_decoder_in_any_order(vtest_keyframes, encode):
    hevc = encode([gradient()] * 2, "libx265")
    decoder = KeyframeDecoder()
    for unit in (vtest_keyframes[0], hevc[0], vtest_keyframes[1], hevc[1], hevc[0], vtest_keyframes[2]):
        picture = decoder.decode(unit)
        assert (picture.width, picture.height) == (unit.format.width, unit.format.height)
        assert not picture.is_corrupt
    assert decoder.decoded == 6
    assert not decoder.errors


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_pixels_are_the_pictures_own(encode, encoder):
    picture = KeyframeDecoder().decode(encode([gradient()], encoder, crf=5)[0])
    rgb = picture.rgb(300, 300)
    assert rgb.shape == (300, 300, 3)
    assert rgb.dtype == np.uint8
    assert np.abs(rgb[150, 20].astype(int) - [17, 90, 238]).max() < 16
    assert picture.gray(320, 180).shape == (180, 320)


def test_each_picture_is_its_own_whatever_was_decoded_before(vtest_keyframes):
    shared = KeyframeDecoder()
    for unit in (vtest_keyframes[5], vtest_keyframes[20], vtest_keyframes[5]):
        alone = KeyframeDecoder().decode(unit).rgb(300, 300)
        assert (shared.decode(unit).rgb(300, 300) == alone).all()


def test_jpeg_is_never_enlarged_and_keeps_the_aspect(vtest_keyframes):
    picture = KeyframeDecoder().decode(vtest_keyframes[0])
    for longest, expected in ((1280, (768, 576)), (640, (640, 480)), (101, (100, 76))):
        jpeg, width, height = picture.jpeg(longest)
        assert (width, height) == expected
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (height, width, 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "picture.nothing"),
        (b"\0\0\0\1", "picture"),
        (b"\0\0\0\1\x67" + random.Random(1).randbytes(5000), "picture"),
        (random.Random(2).randbytes(5000), "picture"),
    ],
)
def test_garbage_is_named_counted_and_harms_nobody(vtest_keyframes, data, code):
    decoder = KeyframeDecoder()
    decoder.decode(vtest_keyframes[0])
    with pytest.raises(DecodeError) as caught:
        decoder.decode(dataclasses.replace(vtest_keyframes[1], data=data))
    assert caught.value.code.startswith(code)
    assert sum(decoder.errors.values()) == 1
    assert "{" not in caught.value.sentence("zh")
    assert not decoder.decode(vtest_keyframes[2]).is_corrupt


def test_a_damaged_keyframe_gives_a_marked_picture_or_a_named_error(vtest_keyframes):
    chance, decoder = random.Random(7), KeyframeDecoder()
    good = vtest_keyframes[3]
    for _ in range(12):
        damaged = bytearray(good.data)
        for _ in range(40):
            damaged[chance.randrange(60, len(damaged))] = chance.randrange(256)
        try:
            decoder.decode(dataclasses.replace(good, data=bytes(damaged[: chance.randrange(2000, len(damaged))])))
        except DecodeError as error:
            assert error.code in ("picture.bad_data", "picture.nothing", "picture.too_large")
        assert not decoder.decode(good).is_corrupt
    half = decoder.decode(dataclasses.replace(good, data=good.data[: len(good.data) // 2]))
    assert half.is_corrupt


def test_pictures_over_the_limit_are_refused_whether_announced_or_not(vtest_keyframes):
    announced = dataclasses.replace(
        vtest_keyframes[0], format=dataclasses.replace(vtest_keyframes[0].format, width=8193)
    )
    with pytest.raises(DecodeError, match=r"picture\.too_large"):
        KeyframeDecoder().decode(announced)
    hidden = dataclasses.replace(
        vtest_keyframes[0], format=dataclasses.replace(vtest_keyframes[0].format, width=320, height=180)
    )
    small = KeyframeDecoder(largest_side_px=700)
    with pytest.raises(DecodeError):  # 768 x 576 in truth
        small.decode(hidden)
    with pytest.raises(DecodeError):
        KeyframeDecoder(largest_side_px=500).decode(hidden)


def test_a_codec_without_decoder_is_named(vtest_keyframes):
    odd = dataclasses.replace(vtest_keyframes[0], format=dataclasses.replace(vtest_keyframes[0].format, codec="h267"))
    with pytest.raises(DecodeError, match=r"picture\.no_decoder"):
        KeyframeDecoder().decode(odd)
