"""The floor: a C program that only reads the cameras' sockets. Compiled when the bench runs, where a compiler is."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rig.cameras import BENCHES, Simulator

COMPILE_S = 60
SETTLE_S = 3.0


@dataclass(frozen=True)
class Floor:
    """What reading alone costs."""

    cores: float
    bits_per_s: float


def read_floor(cameras: Simulator, count: int, seconds: float, folder: Path) -> Floor | None:
    """Run it against the first `count` cameras; None without a C compiler.

    Raises:
        subprocess.SubprocessError: it does not compile, or a camera did not play.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    program = folder / "floor_reader"
    source = str(BENCHES / "floor_reader.c")
    subprocess.run([compiler, "-O2", "-o", str(program), source], check=True, timeout=COMPILE_S)
    arguments = [str(program), str(cameras.port), str(count), str(SETTLE_S), str(seconds)]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, timeout=seconds + SETTLE_S + 60)
    said = json.loads(done.stdout)
    return Floor(said["cpu_s"] / said["wall_s"], said["bytes"] * 8 / said["wall_s"])
