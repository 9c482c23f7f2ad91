"""Evidence: pictures on disk, named by their content, there before the event that names them is told to anybody.

Life cycle: one store a worker over a folder that all processes share; readers only ever open finished files. Nothing is
deleted here: retention belongs to whoever knows which cases still need a picture.
"""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime
from pathlib import Path

from ingest.event import Evidence, new_id

_SHA256 = re.compile(r"[0-9a-f]{64}")


class EvidenceStore:
    """Content-addressed files `<folder>/ab/cd/<sha256>.jpg`; the same bytes are stored once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_jpeg(self, jpeg: bytes, taken_at: datetime, width: int, height: int) -> Evidence:
        """Write `jpeg` and return how an event names it; on return file and folders are on the disk itself.

        Raises:
            OSError: disk full or not writable; no half-written file stays under its final name.
        """
        sha256 = hashlib.sha256(jpeg).hexdigest()
        path = self.path(sha256)
        if path.exists():
            _sync_folder(path.parent)  # whoever wrote it may not have come that far yet
        else:
            _make_durable_folder(path.parent, self._folder)
            write_durably(path, jpeg)
        return Evidence(sha256=sha256, media_type="image/jpeg", taken_at=taken_at, width=width, height=height)

    def path(self, sha256: str) -> Path:
        """Where the picture of that sha256 is, or would be.

        Raises:
            ValueError: not 64 lower-case hex digits (so that no outside string becomes a path).
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError("a sha256 is 64 lower-case hex digits")
        return self._folder / sha256[:2] / sha256[2:4] / f"{sha256}.jpg"


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that after a power cut it is the old file or the new one, never a part."""
    half = path.with_name(f".{path.name}.{new_id().hex}")  # others may be writing the same content now
    try:
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError:
        half.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _make_durable_folder(folder: Path, root: Path) -> None:
    if folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for made in (folder.parent, root):
        _sync_folder(made)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
