"""Analysing a media file on a virtual clock: the clip's own time decides, not the machine's speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import av
from av.error import FFmpegError

from analytics.camera_watch import CameraWatch
from analytics.decode import DecodeError, KeyframeDecoder
from analytics.detector import Detector
from analytics.evidence import EvidenceStore
from ingest.access_unit import AccessUnit, Codec, StreamFormat
from ingest.camera import Camera
from ingest.errors import GridwatchError
from ingest.event import Event

_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


def clip_keyframes(path: Path, begins_at: datetime) -> Iterator[AccessUnit]:
    """The clip's keyframes as a camera would send them; media time starts at 0, `wall_s` at `begins_at`.

    Parameter sets are inside each unit; `format` has the size and codec, its sps and pps are empty.

    Raises:
        GridwatchError: `picture.bad_clip`, when it is no readable H.264 or H.265 clip.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context.name
            annex_b = av.BitStreamFilterContext(_FILTERS[codec], stream)
            form = StreamFormat(
                cast("Codec", codec), b"", b"", None, stream.codec_context.width, stream.codec_context.height, "", 0
            )
            first_s: float | None = None
            for packet in container.demux(stream):
                if not packet.is_keyframe or packet.pts is None or packet.time_base is None:
                    continue
                media_s = float(packet.pts * packet.time_base)
                first_s = media_s if first_s is None else first_s
                at_s = media_s - first_s
                data = b"".join(bytes(part) for part in annex_b.filter(packet))
                pts_90k = round(at_s * 90_000)
                yield AccessUnit(data, (), pts_90k, pts_90k, True, begins_at.timestamp() + at_s, at_s, form)
    except (FFmpegError, OSError, KeyError, IndexError) as error:
        raise GridwatchError("picture.bad_clip", path=path, why=error) from error


def analyse_clip(
    path: Path,
    camera: Camera,
    sink: Callable[[Event], object],
    detector: Detector,
    evidence: EvidenceStore,
    begins_at: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    every_s: float = 2.0,
    timezone: ZoneInfo = ZoneInfo("Asia/Shanghai"),  # noqa: B008 - immutable
) -> CameraWatch:
    """Look at the clip's keyframes, at most one every `every_s` of media time, and give each event to `sink`.

    What is open at the clip's end is closed as `stopped`. Returns the watch with its counters. Undecodable keyframes
    are passed over, as on a live camera.
    """
    watch = CameraWatch(camera, detector, evidence, timezone, epoch=1)
    decoder = KeyframeDecoder()
    last_s: float | None = None
    at = begins_at
    for unit in clip_keyframes(path, begins_at):
        if last_s is not None and unit.received_s - last_s < every_s - 1e-3:
            continue
        last_s = unit.received_s
        at = datetime.fromtimestamp(unit.wall_s, UTC)
        try:
            picture = decoder.decode(unit)
        except DecodeError:
            continue
        for event in watch.look(unit, picture):
            sink(event)
    for event in watch.close("stopped", at):
        sink(event)
    return watch
