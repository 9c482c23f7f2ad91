"""Recording without re-encoding: fragmented MP4 segments on one or several disks, indexed, kept by class and budget."""

from ingest.recording.facts import SPOOL_KIND, Fact, Gap, RecordingAlarm, SegmentClosed, SegmentKey, SegmentsRemoved
from ingest.recording.recorder import RecordedStream, Recorder
from ingest.recording_settings import Recording, RecordingFolder, Retention

__all__ = [
    "SPOOL_KIND",
    "Fact",
    "Gap",
    "RecordedStream",
    "Recorder",
    "Recording",
    "RecordingAlarm",
    "RecordingFolder",
    "Retention",
    "SegmentClosed",
    "SegmentKey",
    "SegmentsRemoved",
]
