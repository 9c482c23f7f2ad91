"""What this machine allows: open files, socket buffers, datagrams that the kernel dropped, the server's own clock.

`take_open_files` is called once at a process's start; `limits` compares what is allowed with what is needed and gives
each finding a sentence with the line that lifts it, for the log, `/healthz` and `gridwatch plan`. `UdpDrops` is
sampled while the process lives. Nothing here changes the system beyond this process's own soft limit, and what a
container hides is said to be unknown, never taken for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import resource
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.errors import sentence
from ingest.rtsp.udp import RECEIVE_BUFFER_BYTES

_BASE_FILES = 256  # event loop, logs, spool, libraries, evidence
_FILES_A_STREAM = 3  # a connection, or two UDP sockets beside it
_FILES_A_RECORDING = 2  # the segment and, while one is closed, the next
_UNLIMITED = 1 << 30

_STA_UNSYNC = 0x40  # linux/timex.h
_TIME_ERROR = 5


@dataclass(frozen=True)
class Limit:
    """One finding. `code` is that of its sentence; one that is kept (`ok`) has a sentence too, for the plan."""

    name: str
    ok: bool | None  # None: the machine does not tell
    code: str
    facts: dict[str, Any] = field(default_factory=dict)

    def sentence(self, lang: str = "zh") -> str:
        """What is allowed, what is needed, and the line that lifts it."""
        return sentence(self.code, lang, **self.facts)

    def as_json(self) -> dict[str, Any]:
        """For reports between processes and for `--json`; both languages inside."""
        return {
            "name": self.name,
            "ok": self.ok,
            "code": self.code,
            "facts": self.facts,
            "zh": self.sentence("zh"),
            "en": self.sentence("en"),
        }


@dataclass(frozen=True)
class Need:
    """What a process will ask of the machine: streams pulled, streams recorded, and whether any may come by UDP."""

    streams: int
    recorded: int = 0
    udp: bool = True

    @property
    def open_files(self) -> int:
        """File descriptors, generously."""
        return _BASE_FILES + self.streams * _FILES_A_STREAM + self.recorded * _FILES_A_RECORDING


def take_open_files() -> int:
    """Raise this process's soft limit of open files to the hard one; the limit that holds afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # the kernel's own ceiling may be lower than "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def open_files_limit() -> int:
    """How many files this process may have open once `take_open_files` has run."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard


def granted_receive_buffer(wanted_bytes: int = RECEIVE_BUFFER_BYTES) -> int:
    """What the kernel gives a UDP socket that asks for `wanted_bytes` (socket(7): it answers with the double)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex (adjtimex(2)); the tail is room that the kernel fills with what nobody here reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tail", ctypes.c_byte * 256),
    )


@dataclass(frozen=True)
class ServerClock:
    """Whether something keeps the server's clock right. None: the kernel does not tell (containers)."""

    synchronised: bool | None
    max_error_s: float | None = None
    why: str = ""


def server_clock() -> ServerClock:
    """Ask the kernel (adjtimex(2) with nothing to set): true of chrony, systemd-timesyncd and ntpd alike."""
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        return ServerClock(None, why=errno.errorcode.get(ctypes.get_errno(), "?"))
    max_error_s = timex.maxerror / 1e6
    return ServerClock(not timex.status & _STA_UNSYNC and state != _TIME_ERROR, max_error_s)


class UdpDrops:
    """Datagrams that came and found this process's socket buffers full; network loss is counted elsewhere.

    `sample` reads /proc/net/udp (proc_pid_net(5)); a socket's last count is kept when it is closed.
    """

    def __init__(self, tables: Iterable[Path] = (Path("/proc/self/net/udp"), Path("/proc/self/net/udp6"))) -> None:
        self._tables = tuple(tables)
        self._by_inode: dict[int, int] = {}
        self._gone = 0

    @property
    def total(self) -> int:
        """Drops so far, as of the last sample."""
        return self._gone + sum(self._by_inode.values())

    def sample(self) -> int:
        """Read the tables; a few hundred system calls, so not more often than every few seconds."""
        own = _own_socket_inodes()
        now = {inode: drops for table in self._tables for inode, drops in _drops(table) if inode in own}
        for inode, drops in self._by_inode.items():
            if now.get(inode, -1) < drops:  # closed, or its number was used again
                self._gone += drops
        self._by_inode = now
        return self.total


def _drops(table: Path) -> list[tuple[int, int]]:
    """(inode, drops) of each socket of a table; an unreadable one counts as empty."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [(int(row[9]), int(row[12])) for row in fields if len(row) > 12]


def _own_socket_inodes() -> set[int]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


def limits(need: Need, udp_drops: int = 0) -> list[Limit]:
    """Every limit against the need, kept or not, in a fixed order."""
    return [_open_files(need), _receive_buffer(need), _udp_drops(udp_drops), _clock()]


def _open_files(need: Need) -> Limit:
    allowed = open_files_limit()
    facts = {"allowed": allowed, "needed": need.open_files}
    if allowed >= need.open_files:
        return Limit("open_files", True, "machine.open_files", facts)
    return Limit("open_files", False, "machine.open_files_short", facts)


def _receive_buffer(need: Need) -> Limit:
    granted = granted_receive_buffer()
    facts = {"granted_kb": granted >> 10, "wanted_kb": RECEIVE_BUFFER_BYTES >> 10, "wanted": RECEIVE_BUFFER_BYTES}
    if granted >= RECEIVE_BUFFER_BYTES:
        return Limit("receive_buffer", True, "machine.receive_buffer", facts)
    # TCP buffers grow by themselves; only cameras that come by UDP lose pictures by a small one
    return Limit("receive_buffer", not need.udp, "machine.receive_buffer_short", facts)


def _udp_drops(count: int) -> Limit:
    code = "machine.udp_drops" if count else "machine.no_udp_drops"
    return Limit("udp_drops", count == 0, code, {"count": count})


def _clock() -> Limit:
    clock = server_clock()
    if clock.synchronised is None:
        return Limit("clock", None, "machine.clock_unknown", {"why": clock.why})
    code = "machine.clock" if clock.synchronised else "machine.clock_free"
    return Limit("clock", clock.synchronised, code, {"max_error_s": clock.max_error_s})
