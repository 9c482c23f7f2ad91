"""The file calls of recording, as one object, so that a test can put a hung or full disk underneath. All of them block.

Everything is called from the threads of one recording folder, never from the event loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Files:
    """The operating system's files."""

    def create(self, path: Path) -> int:
        """A new file, locked against deletion while it is open.

        Raises:
            FileExistsError: there is one; a recording never overwrites another.
        """
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
        with contextlib.suppress(OSError):  # a file system without locks: this process's own list still holds
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return fd

    def write(self, fd: int, data: bytes | bytearray) -> None:
        """All of `data` at the file's position, in one call unless the disk takes less.

        Raises:
            OSError: the disk took a part or nothing; the caller cuts the file back.
        """
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])

    def sync(self, fd: int) -> None:
        """The file's bytes are on the disk."""
        os.fdatasync(fd)

    def sync_folder(self, path: Path) -> None:
        """The names in a folder are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file back and write on from there."""
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)

    def close(self, fd: int) -> None:
        """Release the file and its lock."""
        os.close(fd)

    def touch(self, path: Path) -> None:
        """An empty file."""
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640))

    def remove(self, path: Path) -> None:
        """Delete; what is gone already is no error."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """The folder and those above it."""
        path.mkdir(parents=True, exist_ok=True, mode=0o750)

    def free_bytes(self, folder: Path) -> int:
        """What this process may still write on the folder's disk."""
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize

    def in_use(self, path: Path) -> bool:
        """Whether somebody holds the file: its writer, or a reader with a shared `flock`."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False
