"""What a file of cameras needs (disk, cores, memory, network, open files) and what a machine can hold of it.

The arithmetic of `gridwatch plan`. Disk and network follow from bit rates and days alone; cores and memory from what a
camera costs on the bench (docs/design/ingest.md), so they are estimates and said to be. Nothing is opened or pulled.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from ingest.camera import Camera
from ingest.errors import LANGUAGES, sentence
from ingest.machine import Limit, Need, limits, open_files_limit

Record = Literal["main", "sub", "both", "none"]
Resource = Literal["disk", "cores", "memory", "network", "open_files"]

DAY_S = 86_400
RESERVE_BYTES = 2_000_000_000  # of the disk, left to the database and the system
SPARE_CORES = 0.2  # of each core: bursts, the system, a person who watches
SPARE_NETWORK = 0.3
_NETWORK = Path("/sys/class/net")


@dataclass(frozen=True)
class Cost:
    """What things cost on one core of the bench's machine; see docs/design/ingest.md for how it was measured."""

    ingest_core_per_mbps: float = 0.0008  # session, access units, recording
    ingest_core_per_stream: float = 0.0003
    look_sub_s: float = 0.012  # decode a small keyframe, decide, sometimes detect
    look_main_s: float = 0.030  # the same by a 1080p keyframe
    base_cores: float = 0.10  # database, broker, API, page
    base_bytes: int = 700_000_000  # all processes but for what cameras add; the detector's model is the largest part
    stream_bytes: int = 1_500_000  # the last GOP and what waits for the disk
    camera_bytes: int = 300_000  # rules, pictures


@dataclass(frozen=True)
class Assumed:
    """What the file does not say. Bit rates are those set in the cameras; 4 Mbit/s is usual for 1080p H.264."""

    days: float = 30
    main_bps: float = 4e6
    sub_bps: float = 0.5e6
    record: Record = "main"
    look_every_s: float = 4.0


@dataclass(frozen=True)
class Demand:
    """What the cameras ask for together."""

    cameras: int
    streams: int
    recorded_streams: int
    udp: bool
    network_bps: float
    write_bps: float
    disk_bytes: float
    cores: float
    memory_bytes: float
    open_files: int


def demand(cameras: Sequence[Camera], assumed: Assumed | None = None, cost: Cost | None = None) -> Demand:
    """The need of a file's cameras."""
    a, c = assumed or Assumed(), cost or Cost()
    subs = sum(camera.sub is not None for camera in cameras)
    mains = len(cameras)
    network_bps = mains * a.main_bps + subs * a.sub_bps
    recorded_mains = mains if a.record in ("main", "both") else 0
    recorded_subs = subs if a.record in ("sub", "both") else 0
    write_bps = recorded_mains * a.main_bps + recorded_subs * a.sub_bps
    look_s = subs * c.look_sub_s + (mains - subs) * c.look_main_s
    ingest = network_bps / 1e6 * c.ingest_core_per_mbps + (mains + subs) * c.ingest_core_per_stream
    need = Need(mains + subs, recorded_mains + recorded_subs)
    return Demand(
        cameras=mains,
        streams=mains + subs,
        recorded_streams=recorded_mains + recorded_subs,
        udp=any(camera.transport in ("auto", "udp") for camera in cameras),
        network_bps=network_bps,
        write_bps=write_bps,
        disk_bytes=write_bps / 8 * DAY_S * a.days,
        cores=c.base_cores + ingest + look_s / a.look_every_s,
        memory_bytes=c.base_bytes + (mains + subs) * c.stream_bytes + mains * c.camera_bytes,
        open_files=need.open_files,
    )


@dataclass(frozen=True)
class Machine:
    """What there is. `network_bps` is None where no card tells its speed (virtual machines)."""

    cores: float
    memory_bytes: int
    disk_free_bytes: int
    disk_path: str
    network_bps: float | None
    open_files: int

    @classmethod
    def this(cls, recordings: Path) -> Machine:
        """This machine, and the disk that `recordings` is or will be on."""
        there = next(path for path in (recordings, *recordings.parents) if path.exists())
        return cls(
            cores=float(len(os.sched_getaffinity(0))),
            memory_bytes=psutil.virtual_memory().total,
            disk_free_bytes=max(0, shutil.disk_usage(there).free - RESERVE_BYTES),
            disk_path=str(recordings),
            network_bps=network_speed_bps(),
            open_files=open_files_limit(),
        )


def network_speed_bps(folder: Path = _NETWORK) -> float | None:
    """The fastest card that is up, in bit/s; None where none tells."""
    speeds = []
    for card in folder.iterdir() if folder.is_dir() else ():
        try:
            up = (card / "operstate").read_text().strip() == "up"
            speed = int((card / "speed").read_text())
        except (OSError, ValueError):  # loopback and virtual cards refuse the read
            continue
        if up and speed > 0:
            speeds.append(speed * 1e6)
    return max(speeds, default=None)


@dataclass(frozen=True)
class Verdict:
    """One resource: needed, there, and how many such cameras it would hold (None: as many as one likes)."""

    resource: Resource
    needed: float
    available: float | None
    ok: bool | None
    holds_cameras: int | None
    code: str
    facts: dict[str, Any] = field(default_factory=dict)

    def sentence(self, lang: str = "zh") -> str:
        """What is needed, what is there, and what to do when it is not enough."""
        return sentence(self.code, lang, **self.facts)


@dataclass(frozen=True)
class Plan:
    """The whole answer."""

    assumed: Assumed
    demand: Demand
    machine: Machine
    verdicts: tuple[Verdict, ...]
    limits: tuple[Limit, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing known is short."""
        return all(one.ok is not False for one in self.verdicts) and all(one.ok is not False for one in self.limits)

    @property
    def holds_cameras(self) -> int | None:
        """How many such cameras this machine holds, and no more."""
        return self.by_scarcity[0].holds_cameras if self.by_scarcity else None

    @property
    def by_scarcity(self) -> list[Verdict]:
        """What is used up first, what second, and so on; what is unknown or without end is left out."""
        known = [one for one in self.verdicts if one.holds_cameras is not None]
        return sorted(known, key=lambda one: one.holds_cameras or 0)

    @property
    def days_held(self) -> float | None:
        """For how many days of these cameras the disk suffices; None when nothing is recorded."""
        a_day = self.demand.write_bps / 8 * DAY_S
        return self.machine.disk_free_bytes / a_day if a_day else None

    def as_json(self) -> dict[str, Any]:
        """For programs; sentences in both languages inside."""
        return {
            "ok": self.ok,
            "assumed": asdict(self.assumed),
            "needed": asdict(self.demand),
            "machine": asdict(self.machine),
            "holds_cameras": self.holds_cameras,
            "used_up_first": [one.resource for one in self.by_scarcity],
            "days_held": None if self.days_held is None else round(self.days_held, 2),
            "resources": [{**asdict(one), **{lang: one.sentence(lang) for lang in LANGUAGES}} for one in self.verdicts],
            "limits": [one.as_json() for one in self.limits],
        }


def make_plan(cameras: Sequence[Camera], machine: Machine, assumed: Assumed | None = None) -> Plan:
    """Compare what the cameras need with what there is."""
    assumed = assumed or Assumed()
    need = demand(cameras, assumed)
    nothing = demand((), assumed)
    usable_cores = machine.cores * (1 - SPARE_CORES)
    usable_network = None if machine.network_bps is None else machine.network_bps * (1 - SPARE_NETWORK)

    def verdict(
        resource: Resource, needed: float, base: float, available: float | None, facts: dict[str, Any]
    ) -> Verdict:
        a_camera = (needed - base) / need.cameras if need.cameras else 0.0
        holds = None
        if available is not None and a_camera > 0:
            holds = max(0, math.floor((available - base) / a_camera + 1e-9))
        ok = None if available is None else needed <= available
        ending = {True: "", False: "_short", None: "_unknown"}[ok]
        return Verdict(resource, needed, available, ok, holds, f"plan.{resource}{ending}", facts)

    disk = {
        "needed": in_bytes(need.disk_bytes),
        "free": in_bytes(machine.disk_free_bytes),
        "path": machine.disk_path,
        "days": f"{assumed.days:g}",
        "held_days": f"{machine.disk_free_bytes / (need.write_bps / 8 * DAY_S):.2g}" if need.write_bps else "∞",
    }
    cores = {"needed": f"{need.cores:.2f}", "cores": f"{machine.cores:g}", "usable": f"{usable_cores:.1f}"}
    memory = {"needed": in_bytes(need.memory_bytes), "there": in_bytes(machine.memory_bytes)}
    network = {
        "needed": in_bits(need.network_bps),
        "there": in_bits(machine.network_bps or 0),
        "usable": in_bits(usable_network or 0),
    }
    files = {"needed": need.open_files, "there": machine.open_files}
    verdicts = (
        verdict("disk", need.disk_bytes, 0.0, machine.disk_free_bytes, disk),
        verdict("cores", need.cores, nothing.cores, usable_cores, cores),
        verdict("memory", need.memory_bytes, nothing.memory_bytes, machine.memory_bytes, memory),
        verdict("network", need.network_bps, 0.0, usable_network, network),
        verdict("open_files", need.open_files, nothing.open_files, machine.open_files, files),
    )
    # open files stand among the resources already, with their own line
    found = limits(Need(need.streams, need.recorded_streams, udp=need.udp))
    return Plan(
        assumed, need, machine, verdicts, tuple(one for one in found if one.name in ("receive_buffer", "clock"))
    )


def in_bytes(count: float) -> str:
    """Decimal units, as disks are sold: 166 TB."""
    return _in(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def in_bits(per_s: float) -> str:
    """Decimal units: 512 Mbit/s."""
    return _in(per_s, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"))


def _in(value: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"
