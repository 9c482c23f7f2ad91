"""A camera's state for people: that of its main stream, with the reason as a sentence in both languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingest.errors import sentence
from ingest.health import StreamHealth


def main_stream(streams: Sequence[StreamHealth]) -> StreamHealth | None:
    """The stream that stands for the camera: `main`, else the first."""
    return next((stream for stream in streams if stream.stream == "main"), streams[0] if streams else None)


def by_camera(health: Sequence[StreamHealth]) -> dict[str, list[StreamHealth]]:
    """All streams, camera by camera, in the order given."""
    found: dict[str, list[StreamHealth]] = {}
    for stream in health:
        found.setdefault(stream.camera_id, []).append(stream)
    return found


def reason(stream: StreamHealth, lang: str) -> str | None:
    """Why a stream is as it is, or None when there is nothing to say."""
    return None if stream.reason_code is None else _said(stream, stream.reason_code, stream.reason_facts, lang)


def last_error(stream: StreamHealth, lang: str) -> str | None:
    """Why a stream was not live the last time, or None."""
    code = stream.last_error_code
    return None if code is None else _said(stream, code, stream.last_error_facts, lang)


def fault_sentences(stream: StreamHealth, lang: str) -> list[str]:
    """What else is wrong with a stream, one sentence each."""
    return [_said(stream, fault.code, fault.facts, lang) for fault in stream.faults]


def _said(stream: StreamHealth, code: str, facts: dict[str, str], lang: str) -> str:
    return sentence(code, lang, **{"camera": stream.camera_id, "stream": stream.stream, **facts})


def camera_states(health: Sequence[StreamHealth]) -> dict[str, dict[str, Any]]:
    """Camera id to what the live feed tells of it. Counters are left out, so that equal means "nothing to tell"."""
    found: dict[str, dict[str, Any]] = {}
    for camera_id, streams in by_camera(health).items():
        stream = main_stream(streams)
        assert stream is not None
        found[camera_id] = {
            "camera_id": camera_id,
            "state": stream.state.value,
            "since": stream.since.isoformat(),
            "reason_code": stream.reason_code,
            "reason_zh": reason(stream, "zh"),
            "reason_en": reason(stream, "en"),
            "faults": sorted({fault.code for one in streams for fault in one.faults}),
        }
    return found


def live_and_total(health: Sequence[StreamHealth]) -> tuple[int, int]:
    """How many cameras are live by their main stream (see `StreamHealth.is_live`), and how many there are."""
    mains = [main_stream(streams) for streams in by_camera(health).values()]
    return sum(stream is not None and stream.is_live for stream in mains), len(mains)
