"""Decoding keyframes: an access unit in, a picture out, at whatever sizes its readers ask for.

Life cycle: one `KeyframeDecoder` a thread, shared by all cameras of that thread; it owns a decoder a codec and the
scalers. Each keyframe carries its parameter sets, so a decoder is drained and flushed after each and remembers nothing
of the last camera. A unit that cannot be decoded raises `DecodeError`, is counted by its code, and costs the decoder,
which is made anew; the thread lives on.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import cast

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from analytics.detector import Rgb
from ingest.access_unit import AccessUnit, Codec
from ingest.errors import GridwatchError

LARGEST_SIDE_PX = 8192
_SCALERS = 24  # one a pair of sizes; each holds a few hundred kB at most
_EIGHT_BIT_LUMA = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray"})
Gray = NDArray[np.uint8]  # height x width


class DecodeError(GridwatchError):
    """A keyframe gave no picture: `picture.bad_data`, `.nothing`, `.too_large` or `.no_decoder`."""


class Picture:
    """A decoded keyframe; belongs to the thread that decoded it. Readers ask for the size and colours they need."""

    def __init__(self, frame: VideoFrame, scalers: _Scalers) -> None:
        self._frame = frame
        self._scalers = scalers
        self.width = frame.width
        self.height = frame.height
        self.is_corrupt = bool(frame.is_corrupt)  # parts were missing and have been guessed

    def rgb(self, width: int, height: int) -> Rgb:
        """height x width x 3, uint8, aspect not kept."""
        return self._scalers.scale(self._frame, width, height, "rgb24", "BILINEAR")

    def gray(self, width: int, height: int) -> Gray:
        """height x width, uint8 luma, aspect not kept."""
        return self._scalers.scale(self._frame, width, height, "gray", "AREA")

    def luma_rows(self, count: int) -> Gray:
        """`count` rows of luma, evenly spaced over the height, at native width: pixels as decoded, never scaled."""
        rows = (np.arange(count) * self.height + self.height // 2) // count
        if self._frame.format.name not in _EIGHT_BIT_LUMA:
            return self.gray(self.width, self.height)[rows]
        plane = self._frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        return cast("Gray", luma[rows, : self.width])

    def jpeg(self, longest_side_px: int, quality: int = 85) -> tuple[bytes, int, int]:
        """(JPEG, width, height); never enlarged, aspect kept, sides even."""
        shrink = min(1.0, longest_side_px / max(self.width, self.height))
        width, height = (max(2, round(side * shrink / 2) * 2) for side in (self.width, self.height))
        bgr = self._scalers.scale(self._frame, width, height, "bgr24", "BILINEAR")
        done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise DecodeError("picture.bad_data", why="JPEG")
        return encoded.tobytes(), width, height


class KeyframeDecoder:
    """The decoders of one thread. `errors` counts what could not be decoded, by error code."""

    def __init__(self, largest_side_px: int = LARGEST_SIDE_PX) -> None:
        self._largest_side_px = largest_side_px
        self._decoders: dict[Codec, av.VideoCodecContext] = {}
        self._scalers = _Scalers()
        self.decoded = 0
        self.errors: Counter[str] = Counter()

    def decode(self, unit: AccessUnit) -> Picture:
        """The picture of a keyframe.

        Raises:
            DecodeError: there is none; counted, and the next unit meets a clean decoder.
        """
        try:
            frame = self._decode(unit)
        except DecodeError as error:
            self.errors[error.code] += 1
            self._decoders.pop(unit.format.codec, None)
            raise
        self.decoded += 1
        return Picture(frame, self._scalers)

    def _decode(self, unit: AccessUnit) -> VideoFrame:
        self._refuse_too_large(unit.format.width, unit.format.height)
        decoder = self._decoder(unit.format.codec)
        try:
            frames = [*decoder.decode(av.Packet(unit.data)), *decoder.decode(None)] if unit.data else []
            decoder.flush_buffers()
        except (FFmpegError, ValueError, MemoryError) as error:
            raise DecodeError("picture.bad_data", why=str(error)) from error
        if not frames:
            raise DecodeError("picture.nothing")
        self._refuse_too_large(frames[0].width, frames[0].height)
        return frames[0]

    def _decoder(self, codec: Codec) -> av.VideoCodecContext:
        if (known := self._decoders.get(codec)) is not None:
            return known
        try:
            made = av.CodecContext.create(codec, "r")
        except (FFmpegError, ValueError) as error:
            raise DecodeError("picture.no_decoder", codec=codec) from error
        made.thread_count = 1
        made.options = {"max_pixels": str(self._largest_side_px**2)}  # refused before memory is taken
        self._decoders[codec] = made
        return made

    def _refuse_too_large(self, width: int, height: int) -> None:
        if max(width, height) > self._largest_side_px:
            raise DecodeError("picture.too_large", width=width, height=height, limit=self._largest_side_px)


class _Scalers:
    """libswscale contexts, one a pair of source and target: setting one up costs more than using it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], VideoReformatter] = OrderedDict()

    def scale(self, frame: VideoFrame, width: int, height: int, pixels: str, how: str) -> NDArray[np.uint8]:
        key = (frame.width, frame.height, frame.format.name, width, height, pixels)
        scaler = self._known.get(key)
        if scaler is None:
            scaler = self._known[key] = VideoReformatter()
            if len(self._known) > _SCALERS:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        scaled = scaler.reformat(frame, width, height, pixels, interpolation=how, threads=1)
        return cast("NDArray[np.uint8]", scaled.to_ndarray())
