"""The demo's simulated cameras as a process: those of `GRIDWATCH_STREAMS`, on the port of the first argument.

Clips are only read here; they were encoded at set-up.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from command.processes.child import beat, every, run_child
from command.settings import Settings
from ingest.simulate.camera import SimCamera
from ingest.simulate.clips import open_clips
from ingest.simulate.recipe import DEMO_SET, MAIN, SUB
from ingest.simulate.scenes import phase_for, scene_for
from ingest.simulate.town import SimulatedTown
from ingest.streams import load_streams


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    port, cache = int(sys.argv[1]), Path(sys.argv[2])
    cameras = []
    for index, camera in enumerate(load_streams(settings.streams).cameras):
        user, password = camera.main.credentials or (None, "")
        cameras.append(
            SimCamera(
                camera.id,
                scene=scene_for(index),
                main=MAIN.name,
                sub=SUB.name if camera.sub is not None else None,
                phase_s=phase_for(index),
                user=user,
                password=password,
            )
        )
    async with SimulatedTown(cameras, port, clips=open_clips(DEMO_SET, cache)):
        await every(1.0, stop, lambda: beat(settings.run / "simulator.json", "{}"))


if __name__ == "__main__":
    run_child("simulator", main)
