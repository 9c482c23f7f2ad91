"""The town as a whole: what `gridwatch up` and `gridwatch demo` start, in order, and end in reverse.

    database -> schema -> accounts -> broker -> API -> media -> ingest worker

One town a home: a lock in the home folder keeps a second one out. Ready means that every process has beaten its
heart and the page answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Sequence

from command.dispatch.accounts import Accounts
from command.grids import read_grids
from command.settings import Settings
from command.store.embedded import EmbeddedPostgres
from command.store.migrate import migrate
from command.supervisor import Child, Supervisor, python_child
from command.web.rights import require_loopback
from ingest.errors import GridwatchError
from ingest.streams import FileRejectedError, read_streams

log = logging.getLogger(__name__)

READY_WITHIN_S = 60.0


class RunningTown:
    """One running town. `extra` are children of the caller (simulated cameras, patrollers), started first and last."""

    def __init__(self, settings: Settings, before: Sequence[Child] = (), after: Sequence[Child] = ()) -> None:
        self.settings = settings
        self._before = before
        self._after = after
        self.supervisor = Supervisor()
        self.postgres: EmbeddedPostgres | None = None
        self.conninfo = ""
        self._keeping: asyncio.Task[None] | None = None
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
        person_ids = self._check_files()
        for child in self._before:
            await self.supervisor.add(child)
        if settings.database_url is None:
            self.postgres = EmbeddedPostgres.for_home(settings.home)
            self.conninfo = await asyncio.to_thread(self.postgres.start)
            self._keeping = asyncio.create_task(self.postgres.keep(), name="keep-postgres")
        else:
            self.conninfo = settings.database_url
        applied = await asyncio.to_thread(migrate, self.conninfo)
        if applied:
            log.info("schema brought up to date", extra={"migrations": [one.name for one in applied]})
        Accounts(settings.secrets).ensure(person_ids)
        environment = {**settings.environment(), "GRIDWATCH_DATABASE_URL": self.conninfo}
        names = ["api", "media", "worker-1"]
        if settings.mqtt_url is None:
            names.insert(0, "broker")
        for name in names:
            module, _, number = name.partition("-")
            heart = settings.run / f"{name}.json"
            await self.supervisor.add(Child(name, python_child(module, *filter(None, [number])), heart, environment))
        await self._until_ready(names)
        for child in self._after:
            await self.supervisor.add(child)

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

    def _check_files(self) -> list[str]:
        """Refuse files that cannot be read at all; name what else is wrong and go on with the rest."""
        streams, problems = read_streams(self.settings.streams)
        grids, more = read_grids(self.settings.grids)
        errors = [problem for problem in [*problems, *more] if problem.severity == "error"]
        for problem in errors[:10]:
            log.error("%s", problem.sentence("en"), extra={"file": problem.file, "line": problem.line})
        if streams is None or grids is None:
            raise FileRejectedError(errors[0], len(errors))
        if errors:
            log.error("%s", GridwatchError("up.bad_cameras", file=self.settings.streams, count=len(errors)))
        return sorted(grids.people())

    async def _until_ready(self, names: list[str]) -> None:
        deadline_s = asyncio.get_running_loop().time() + READY_WITHIN_S
        while missing := [name for name in names if not (self.settings.run / f"{name}.json").exists()]:
            if asyncio.get_running_loop().time() > deadline_s:
                raise GridwatchError("up.not_ready", wait_s=int(READY_WITHIN_S), parts=", ".join(missing))
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End everything; what was told is on disk. Idempotent."""
        await self.supervisor.stop()
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
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
