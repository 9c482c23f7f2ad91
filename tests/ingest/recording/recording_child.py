"""A process that records the given URLs until it is killed: `recording_child.py HOME URL…`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.link import CameraLink
from ingest.recording import Fact, RecordedStream, Recorder, Recording, SegmentClosed
from ingest.secret import SecretUrl


def tell(fact: Fact) -> None:
    if isinstance(fact, SegmentClosed):
        print(fact.path, flush=True)


async def main() -> None:
    gate = ConnectGate()
    links = [
        CameraLink(f"c{n}", "main", SecretUrl(url), clock=SystemClock(), gate=gate)
        for n, url in enumerate(sys.argv[2:])
    ]
    recorder = Recorder(
        [RecordedStream(link.camera_id, "main", link.fanout) for link in links],
        Recording(segment_s=5),
        emit_fact=tell,
        clock=SystemClock(),
        home=Path(sys.argv[1]),
        zone=ZoneInfo("Asia/Shanghai"),
    )
    await recorder.start()
    for link in links:
        link.start()
    await asyncio.Event().wait()


asyncio.run(main())
