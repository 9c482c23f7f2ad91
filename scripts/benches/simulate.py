"""The simulated cameras' own cost, read by a program that only throws away.

scripts/bench simulate --cameras 128 --seconds 20 --json out.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rig.cameras import prepare_clips, simulator
from rig.cpu import process_usage
from rig.floor import SETTLE_S, read_floor

MOST_CORES_PER_128 = 0.2
MARGIN_S = 4.0  # by which the reader outlives the measured stretch


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--cameras", type=click.IntRange(1, 999), default=128, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here too")
@click.option("--clips", type=click.Path(path_type=Path), help="folder of the cameras' clips")
@click.option("--tiny", is_flag=True, help="tiny pictures: does the bench itself work")
def main(cameras: int, seconds: float, json_path: Path | None, clips: Path | None, tiny: bool) -> None:
    set_name = "tiny" if tiny else "hd"
    folder = prepare_clips(set_name, clips)
    with (
        tempfile.TemporaryDirectory(prefix="gw-bench-") as work,
        simulator(cameras, set_name, folder) as town,
        ThreadPoolExecutor(1) as pool,
    ):
        reading = pool.submit(read_floor, town, cameras, seconds + MARGIN_S, Path(work))
        while town.playing() < cameras and not reading.done():
            time.sleep(0.1)
        time.sleep(SETTLE_S)  # every camera begins at its next keyframe
        before, used, began_s = town.counts(), process_usage(town.pid).cpu_s, time.monotonic()
        time.sleep(seconds)
        after, used_after, wall_s = town.counts(), process_usage(town.pid).cpu_s, time.monotonic() - began_s
        floor = reading.result()
    if floor is None:
        click.echo("no C compiler here (cc, gcc, clang), and a reader in Python would take what is measured", err=True)
        sys.exit(2)
    expected = cameras * town.kind.fps * wall_s
    figures = {
        "cameras": cameras,
        "seconds": seconds,
        "simulator_cores": round((used_after - used) / wall_s, 4),
        "cores_per_128": round((used_after - used) / wall_s / cameras * 128, 4),
        "reader_cores": round(floor.cores, 4),
        "mbit_per_s": round(floor.bits_per_s / 1e6, 1),
        "frames_sent": after.total - before.total,
        "frames_in_time": round((after.total - before.total) / expected, 4),
        "frames_dropped": after.dropped - before.dropped,
    }
    click.echo(json.dumps(figures, indent=2))
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if not tiny and figures["cores_per_128"] > MOST_CORES_PER_128:
        click.echo(f"above {MOST_CORES_PER_128} core for 128 cameras", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
