"""Where things are and how they are reached: environment first, embedded defaults otherwise."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from ingest.errors import GridwatchError

MAX_WORKERS = 64


def default_home() -> Path:
    """`GRIDWATCH_HOME`, else /var/lib/gridwatch as root (the database drops root and must reach it), else XDG data."""
    if given := os.environ.get("GRIDWATCH_HOME"):
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/gridwatch")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "gridwatch"


@cache
def _run_folder(home: Path) -> Path:
    name = f"gridwatch-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    for base in (os.environ.get("XDG_RUNTIME_DIR"), "/run" if os.geteuid() == 0 else None, "/dev/shm"):  # noqa: S108
        if not base:
            continue
        folder = Path(base) / name
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                return folder  # ours alone; a folder that somebody else put there first is never used
    return home / "run"


def _port(name: str, default: str) -> int:
    value = os.environ.get(name) or default
    if not value.isdigit() or not 0 <= int(value) <= 65535:
        raise GridwatchError("settings.bad", name=name, value=value, expected="0 … 65535")
    return int(value)


def _seconds(name: str, default: str) -> float:
    value = os.environ.get(name) or default
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds <= 3600:
        raise GridwatchError("settings.bad", name=name, value=value, expected="0.5 … 3600")
    return seconds


def _workers(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or not 1 <= int(value) <= MAX_WORKERS:
        raise GridwatchError("settings.bad", name="GRIDWATCH_WORKERS", value=value, expected=f"1 … {MAX_WORKERS}")
    return int(value)


@dataclass(frozen=True)
class Settings:
    """One object for all processes; children get it through the environment they inherit."""

    home: Path = field(default_factory=default_home)
    streams: Path = Path("streams.yaml")
    grids: Path = Path("grids.geojson")
    host: str = "127.0.0.1"
    port: int = 8480
    database_url: str | None = None  # None: embedded PostgreSQL
    mqtt_url: str | None = None  # None: embedded broker
    mqtt_port: int = 8483
    lang: str = "zh"
    timezone: str = "Asia/Shanghai"
    look_every_s: float = 4.0  # a camera where nothing moves is looked at this often
    loss_after_s: float = 30.0  # a camera without a picture for so long is an event
    workers: int | None = None  # ingest workers; None: by the number of cores

    @classmethod
    def from_environment(cls, **changes: object) -> Settings:
        """Settings from `GRIDWATCH_*`, with `changes` (command line options that are not None) on top.

        Raises:
            GridwatchError: `settings.bad`, naming the variable.
        """
        env = os.environ
        found: dict[str, object] = {
            "home": default_home(),
            "streams": Path(env.get("GRIDWATCH_STREAMS", "streams.yaml")).absolute(),
            "grids": Path(env.get("GRIDWATCH_GRIDS", "grids.geojson")).absolute(),
            "host": env.get("GRIDWATCH_HOST", "127.0.0.1"),
            "port": _port("GRIDWATCH_PORT", "8480"),
            "database_url": env.get("GRIDWATCH_DATABASE_URL") or None,
            "mqtt_url": env.get("GRIDWATCH_MQTT_URL") or None,
            "mqtt_port": _port("GRIDWATCH_MQTT_PORT", "8483"),
            "lang": env.get("GRIDWATCH_LANG", "zh"),
            "timezone": env.get("GRIDWATCH_TIMEZONE", "Asia/Shanghai"),
            "look_every_s": _seconds("GRIDWATCH_LOOK_EVERY_S", "4"),
            "loss_after_s": _seconds("GRIDWATCH_LOSS_AFTER_S", "30"),
            "workers": _workers(env.get("GRIDWATCH_WORKERS") or None),
        }
        try:
            ZoneInfo(str(found["timezone"]))
        except (KeyError, ValueError, OSError) as error:
            raise GridwatchError(
                "settings.bad", name="GRIDWATCH_TIMEZONE", value=found["timezone"], expected="Asia/Shanghai …"
            ) from error
        found.update({k: v for k, v in changes.items() if v is not None})
        return cls(**found)  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """What a child process needs to come to the same settings by `from_environment`."""
        return {
            "GRIDWATCH_HOME": str(self.home),
            "GRIDWATCH_STREAMS": str(self.streams),
            "GRIDWATCH_GRIDS": str(self.grids),
            "GRIDWATCH_HOST": self.host,
            "GRIDWATCH_PORT": str(self.port),
            "GRIDWATCH_DATABASE_URL": self.database_url or "",
            "GRIDWATCH_MQTT_URL": self.mqtt_url or "",
            "GRIDWATCH_MQTT_PORT": str(self.mqtt_port),
            "GRIDWATCH_LANG": self.lang,
            "GRIDWATCH_WORKERS": str(self.workers or ""),
            "GRIDWATCH_TIMEZONE": self.timezone,
            "GRIDWATCH_LOOK_EVERY_S": f"{self.look_every_s:g}",
            "GRIDWATCH_LOSS_AFTER_S": f"{self.loss_after_s:g}",
        }

    @property
    def zone(self) -> ZoneInfo:
        """The town's time zone: days, hours and working time are in it."""
        return ZoneInfo(self.timezone)

    @property
    def evidence(self) -> Path:
        """Content-addressed pictures."""
        return self.home / "evidence"

    @property
    def spools(self) -> Path:
        """What waits on disk for the database: one SQLite file a writer."""
        return self.home / "spool"

    @property
    def secrets(self) -> Path:
        """0700: passwords that the program made for itself."""
        return self.home / "secrets"

    @property
    def pictures(self) -> Path:
        """The last keyframe of each camera, one JPEG file a camera."""
        return self.run / "pictures"

    def tap_socket(self, worker: str) -> Path:
        """Where an ingest worker gives packets to the media process."""
        return self.run / f"tap-{worker}.sock"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor takes `gridwatch reload`."""
        return self.run / "control.sock"

    @property
    def media_socket(self) -> Path:
        """Where the media process answers the API process."""
        return self.run / "media.sock"

    @property
    def run(self) -> Path:
        """Local sockets, heartbeats and last pictures: what is rewritten all the time and worth nothing after a reboot.

        In memory where the system has such a place (a rename on a busy disk may block for seconds), else in the home.
        Short, since a socket path ends at 107 bytes; one folder a home, 0700.
        """
        return _run_folder(self.home)
