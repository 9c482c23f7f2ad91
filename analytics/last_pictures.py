"""The last picture of each camera as a small JPEG file, for pages: written by workers, served by the command process.

A file's modification time is when its picture was taken, so picture and time change together and no message passes
between the processes. Not durable on purpose: after a restart the next look writes it again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from ingest.event import utc_s


class LastPictures:
    """The folder of `<camera>.jpg`; safe for one writer a camera and any number of readers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, camera_id: str, jpeg: bytes, taken_at: datetime) -> None:
        """Replace the camera's picture at once. Raises OSError when the folder cannot be written."""
        path = self._path(camera_id)
        half = path.with_name(f".{path.name}.new")
        self._folder.mkdir(parents=True, exist_ok=True)
        half.write_bytes(jpeg)
        os.utime(half, (utc_s(taken_at), utc_s(taken_at)))
        half.replace(path)

    def get(self, camera_id: str) -> tuple[bytes, datetime] | None:
        """(JPEG, when it was taken in UTC), or None while there is none."""
        try:
            with self._path(camera_id).open("rb") as file:
                taken_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
                return file.read(), taken_at
        except FileNotFoundError:
            return None

    def taken_at(self, camera_id: str) -> datetime | None:
        """When the picture was taken, without reading it."""
        try:
            return datetime.fromtimestamp(self._path(camera_id).stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def remove(self, camera_id: str) -> None:
        """Forget a camera's picture: it is no longer configured."""
        self._path(camera_id).unlink(missing_ok=True)

    def _path(self, camera_id: str) -> Path:
        return self._folder / f"{quote(camera_id, safe='')}.jpg"  # no outside string becomes a path
