"""A worker's epoch: one more at each start, on disk before it is used, so that later statements always win."""

from __future__ import annotations

import os
import time
from pathlib import Path


def next_epoch(path: Path) -> int:
    """Count up the number in `path` and return it; durable on return.

    A file that is lost or unreadable starts again from the clock in seconds, which is beyond any counted number.
    """
    try:
        epoch = int(path.read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        epoch = int(time.time())
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".new")
    with half.open("w", encoding="ascii") as file:
        file.write(str(epoch))
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return epoch
