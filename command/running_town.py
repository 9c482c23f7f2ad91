"""The town as a whole: what `gridwatch up` and `gridwatch demo` start, in order, and end in reverse.

    files -> accounts -> database -> schema -> broker -> API -> media -> ingest workers

One town a home: a lock in the home folder keeps a second one out. Ready means that every process has beaten its
heart and the page answers. From then on edits of the files are taken as they are found (`command.configuration`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
from collections.abc import Sequence

from analytics.open_events import adopt
from command.configuration import Configuration
from command.control import ControlServer
from command.settings import Settings
from command.store.embedded import EmbeddedPostgres
from command.store.migrate import migrate
from command.supervisor import Child, Supervisor, python_child
from command.web.rights import require_loopback
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

READY_WITHIN_S = 60.0
WORKER_HUNG_AFTER_S = 2.5  # cameras are blind meanwhile; see `command.pulse` for how starving is told apart
WORKER_STAGGER_S = 0.25


class RunningTown:
    """One running town. `extra` are children of the caller (simulated cameras, patrollers), started first and last."""

    def __init__(self, settings: Settings, before: Sequence[Child] = (), after: Sequence[Child] = ()) -> None:
        self.settings = settings
        self._before = before
        self._after = after
        self.supervisor = Supervisor()
        self.postgres: EmbeddedPostgres | None = None
        self.conninfo = ""
        self.configuration = Configuration(settings)
        self._control = ControlServer(settings.control_socket, {"reload": self.configuration.reload})
        self._jobs: list[asyncio.Task[None]] = []
        self._lock_fd: int | None = None

    async def start(self) -> None:
        """Start everything and return when it is ready.

        Raises:
            GridwatchError: what is wrong, as a sentence; nothing is left running.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        require_loopback(settings.host)
        self._prepare_home()
        await asyncio.to_thread(self.configuration.begin)
        self._adopt_open_events()
        for child in self._before:
            await self.supervisor.add(child)
        if settings.database_url is None:
            self.postgres = EmbeddedPostgres.for_home(settings.home)
            self.conninfo = await asyncio.to_thread(self.postgres.start)
            self._jobs.append(asyncio.create_task(self.postgres.keep(), name="keep-postgres"))
        else:
            self.conninfo = settings.database_url
        applied = await asyncio.to_thread(migrate, self.conninfo)
        if applied:
            log.info("schema brought up to date", extra={"migrations": [one.name for one in applied]})
        environment = {**settings.environment(), "GRIDWATCH_DATABASE_URL": self.conninfo}
        workers = self.configuration.worker_names
        names = ["api", "media", *workers]
        if settings.mqtt_url is None:
            names.insert(0, "broker")
        for name in names:
            module, _, number = name.partition("-")
            arguments = python_child(module, *filter(None, [number]))
            child = Child(name, arguments, settings.run / f"{name}.json", environment)
            if name in workers:
                child.stage, child.hung_after_s = "workers", WORKER_HUNG_AFTER_S
                await asyncio.sleep(WORKER_STAGGER_S if name != workers[0] else 0)
            await self.supervisor.add(child)
        await self._until_ready(names)
        for child in self._after:
            await self.supervisor.add(child)
        await self._control.start()
        self._jobs.append(asyncio.create_task(self.configuration.watch(), name="watch-files"))

    def _prepare_home(self) -> None:
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / "town.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise GridwatchError("up.already_running", home=home) from error
        self._lock_fd = descriptor
        for folder in (self.settings.secrets, self.settings.spools, self.settings.evidence, self.settings.pictures):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stale in self.settings.run.glob("*.json"):
            stale.unlink(missing_ok=True)

    def _adopt_open_events(self) -> None:
        """Workers that there are no longer have left events open; the first one closes them."""
        spools, names = self.settings.spools, self.configuration.worker_names
        left = {path.name.removesuffix(".open.json"): path for path in spools.glob("worker-*.open.json")}
        orphans = [path for name, path in sorted(left.items()) if name not in names]
        if orphans:
            count = adopt(spools / f"{names[0]}.open.json", orphans)
            log.info("open events of earlier workers are taken over", extra={"files": len(orphans), "events": count})

    async def _until_ready(self, names: list[str]) -> None:
        deadline_s = asyncio.get_running_loop().time() + READY_WITHIN_S
        while missing := [name for name in names if not (self.settings.run / f"{name}.json").exists()]:
            if asyncio.get_running_loop().time() > deadline_s:
                raise GridwatchError("up.not_ready", wait_s=int(READY_WITHIN_S), parts=", ".join(missing))
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End everything; what was told is on disk. Idempotent."""
        await self._control.stop()
        if self._lock_fd is not None and self._jobs:
            await asyncio.to_thread(self.configuration.remember)
        await self.supervisor.stop()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        if self.postgres is not None:
            await asyncio.to_thread(self.postgres.stop)
        if self._lock_fd is not None:
            shutil.rmtree(self.settings.run, ignore_errors=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{self.settings.host}:{self.settings.port}/"
