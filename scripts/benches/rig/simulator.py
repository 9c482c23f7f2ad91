"""The simulated cameras as a process of their own, so that their CPU is nobody else's.

Prints one line of JSON when it serves: port, control address, pid. Ends with its parent or with SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from command.processes.child import die_with_parent
from ingest.simulate.camera import SimCamera
from ingest.simulate.clips import open_clips
from ingest.simulate.scenes import phase_for
from ingest.simulate.town import SimulatedTown
from rig.cameras import CAMERA_SETS, camera_ids, scene_of


async def serve(count: int, set_name: str, cache: Path) -> None:
    """Serve until SIGTERM."""
    kind = CAMERA_SETS[set_name]
    cameras = [
        SimCamera(camera, scene_of(index), kind.main.name, kind.sub.name, phase_for(index))
        for index, camera in enumerate(camera_ids(count))
    ]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with SimulatedTown(cameras, clips=open_clips(kind.recipes, cache), control_port=0) as town:
        print(json.dumps({"port": town.port, "control": town.control_url}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
