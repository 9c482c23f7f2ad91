"""Blocks held back for the day the disk is full: a file of allocated, unused bytes that its owner gives up in need.

Recordings may eat everything else on a disk; what an owner holds here is still there for rows that must not be lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class DiskReserve:
    """`hold` allocates, `release` gives the blocks back to the disk, `exhausted` says that none are held now."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.exhausted = False

    def hold(self) -> None:
        """Allocate the reserve unless that takes the disk's last blocks. Being without it is no error, only said."""
        if self.size_bytes <= 0:
            return
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size >= self.size_bytes:
                self.exhausted = False
                return
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * self.size_bytes:
            self.exhausted = True
            return
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.size_bytes)
            self.exhausted = False
        except OSError as error:
            os.ftruncate(fd, 0)
            self.exhausted = True
            log.warning("no disk reserve could be held", extra={"path": str(self.path), "reason": str(error)})
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Give the blocks up; False when there were none."""
        self.exhausted = True
        try:
            if self.path.stat().st_size == 0:
                return False
        except FileNotFoundError:
            return False
        os.truncate(self.path, 0)
        log.error("disk full: living on the reserve now", extra={"path": str(self.path)})
        return True
