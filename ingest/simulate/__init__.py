"""Simulated cameras: a town of RTSP cameras that plays looped clips and fails on request.

The demo's town, the tests' cameras and the benches' load: `SimulatedTown` runs them, `SimCamera` describes one,
`Fault` is what can go wrong, `ensure_clips` encodes at set-up, `read_frame_number` proves what arrived.
"""

from ingest.simulate.camera import SimCamera, Variant
from ingest.simulate.clips import ClipLibrary, ensure_clips, open_clips
from ingest.simulate.fault import Fault, FaultKind
from ingest.simulate.frame_number import FrameMark, read_frame_mark, read_frame_number, source_hash
from ingest.simulate.recipe import BENCH_SET, DEMO_SET, TEST_SET
from ingest.simulate.scenes import WALKER_ZONE, phase_for, scene_for
from ingest.simulate.town import SimulatedTown

__all__ = [
    "BENCH_SET",
    "DEMO_SET",
    "TEST_SET",
    "WALKER_ZONE",
    "ClipLibrary",
    "Fault",
    "FaultKind",
    "FrameMark",
    "SimCamera",
    "SimulatedTown",
    "Variant",
    "ensure_clips",
    "open_clips",
    "phase_for",
    "read_frame_mark",
    "read_frame_number",
    "scene_for",
    "source_hash",
]
