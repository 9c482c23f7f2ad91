"""The running town's configuration: taken at start, read again when the files change or somebody asks, published.

At start what is good in the files is taken and the rest told, since half a town is better than none. Later an edit is
taken whole or not at all. Cameras that change workers are first taken from the old worker and then given to the new
one: many a camera serves only one session. What the spread was, and what the streams weighed, is kept in the home
(`spread.json`), so that a restart moves nobody either; without it the town is spread anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from command.accepted_town import AcceptedTown, TownFile
from command.dispatch.accounts import Accounts
from command.settings import Settings
from command.spread import TOLERANCE, camera_cost, default_workers, spread
from command.town_files import ReadTown, TownFiles
from command.worker_report import WorkerReports
from ingest.errors import GridwatchError
from ingest.source_lines import Problem
from ingest.streams import FileRejectedError, Streams

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
APPLIED_WITHIN_S = 10.0
LEFT_WITHIN_S = 3.0  # for a moved camera's old worker to tear its session down


class Configuration:
    """Owned by the supervisor's process. `begin`, then `watch` as a task; `reload` whenever somebody asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = TownFiles(settings.streams, settings.grids)
        self._published = TownFile(settings.run)
        self._reports = WorkerReports(settings.run)
        self._kept = settings.home / "spread.json"
        self._one_at_a_time = asyncio.Lock()
        self.town: AcceptedTown

    @property
    def worker_names(self) -> tuple[str, ...]:
        """The ingest workers; as many as at start for as long as the town runs."""
        return self.town.worker_names

    def begin(self) -> None:
        """Read the files, take what is good, publish it.

        Raises:
            FileRejectedError: one of them cannot be read at all.
        """
        read = self._files.read()
        for problem in read.errors[:10]:
            log.error("%s", problem.sentence("en"), extra={"file": problem.file, "line": problem.line})
        if read.streams is None or read.grids is None:
            raise FileRejectedError(read.errors[0], len(read.errors))
        if read.errors:
            facts = {"file": self._settings.streams, "count": len(read.errors)}
            log.error("%s", GridwatchError("up.bad_cameras", **facts))
        cores = len(os.sched_getaffinity(0))
        count = self._settings.workers or min(default_workers(cores), max(1, len(read.streams.cameras)))
        names = tuple(f"worker-{number}" for number in range(1, count + 1))
        earlier, bitrates_bps = self._remembered()
        workers = _spread(read.streams, names, earlier, bitrates_bps, 0.0)  # everybody connects now anyway
        self._ensure_accounts(read)
        self.town = AcceptedTown(generation=1, streams=read.streams, worker_names=names, workers=workers)
        self._published.publish(self.town, read.grids_bytes)
        log.info("cameras spread", extra={"cameras": len(workers), "workers": count})

    async def watch(self) -> None:
        """Take edits of the files as they are found, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._files.changed():
                await self.reload()

    async def reload(self) -> dict[str, Any]:
        """Read the files and take them whole or not at all; returns when the children have followed.

        The answer is what `gridwatch reload --json` prints: `ok`, then `added`, `removed`, `changed`, `moved` (camera
        ids), `late` (parts that have not followed yet) and `seconds`, or `problems` (file, line, zh, en).
        """
        async with self._one_at_a_time:
            began_s = asyncio.get_running_loop().time()
            read = await asyncio.to_thread(self._files.read)
            if (refusal := read.refusal) is not None:
                self.town = self.town.model_copy(update={"refused": refusal})
                self._published.publish(self.town)
                log.error("edit not taken, the old configuration stays", extra=refusal.model_dump(exclude={"first_zh"}))
                return {"ok": False, "problems": [_told(problem) for problem in read.errors]}
            answer = await self._take(read)
            answer["seconds"] = round(asyncio.get_running_loop().time() - began_s, 2)
            counts = {key: len(value) for key, value in answer.items() if isinstance(value, list)}
            log.info("edit taken", extra={**counts, "seconds": answer["seconds"]})
            return answer

    async def _take(self, read: ReadTown) -> dict[str, Any]:
        assert read.streams is not None
        await asyncio.to_thread(self._ensure_accounts, read)
        before, streams = self.town, read.streams
        workers = _spread(streams, before.worker_names, before.workers, self._bitrates_bps(), TOLERANCE)
        moved = sorted(one for one, worker in workers.items() if before.workers.get(one, worker) != worker)
        if moved:
            staying = {camera: worker for camera, worker in workers.items() if camera not in moved}
            self._publish(streams, staying, read.grids_bytes)
            await self._until_followed({before.workers[camera] for camera in moved}, LEFT_WITHIN_S)
        self._publish(streams, workers, read.grids_bytes)
        await asyncio.to_thread(self.remember)
        late = await self._until_followed({*before.worker_names, "api"}, APPLIED_WITHIN_S)
        old = {camera.id: camera for camera in before.streams.cameras}
        new = {camera.id: camera for camera in streams.cameras}
        return {
            "ok": True,
            "added": sorted(new.keys() - old.keys()),
            "removed": sorted(old.keys() - new.keys()),
            "changed": sorted(one for one in new.keys() & old.keys() if new[one] != old[one]),
            "moved": moved,
            "late": late,
        }

    def _publish(self, streams: Streams, workers: dict[str, str], grids: bytes) -> None:
        self.town = AcceptedTown(
            generation=self.town.generation + 1,
            streams=streams,
            worker_names=self.town.worker_names,
            workers=workers,
        )
        self._published.publish(self.town, grids)

    async def _until_followed(self, parts: set[str], within_s: float) -> list[str]:
        """Wait until these processes work by the newest generation; those that do not in time, sorted."""
        deadline_s = asyncio.get_running_loop().time() + within_s
        while True:
            reached = {report.worker: report.generation for _, report in self._reports.reports()}
            reached["api"] = self._api_generation()
            late = sorted(part for part in parts if reached.get(part, 0) < self.town.generation)
            if not late or asyncio.get_running_loop().time() > deadline_s:
                return late
            await asyncio.sleep(0.05)

    def _api_generation(self) -> int:
        try:
            return int(json.loads((self._settings.run / "api.json").read_bytes())["generation"])
        except (OSError, ValueError, KeyError):
            return 0

    def _ensure_accounts(self, read: ReadTown) -> None:
        assert read.grids is not None
        Accounts(self._settings.secrets).ensure(sorted(read.grids.people()))

    def _bitrates_bps(self) -> dict[str, float]:
        healths = [health for _, report in self._reports.reports() for health in report.streams]
        return {f"{one.camera_id}/{one.stream}": one.bitrate_bps for one in healths if one.bitrate_bps}

    def remember(self) -> None:
        """Keep the spread for the next start; a disk that refuses costs only some reconnects then."""
        _, earlier = self._remembered()
        bitrates_bps = {key: round(value) for key, value in {**earlier, **self._bitrates_bps()}.items()}
        body = {"workers": self.town.workers, "bitrates_bps": bitrates_bps}
        try:
            half = self._kept.with_suffix(".new")
            half.write_text(json.dumps(body), encoding="utf-8")
            half.replace(self._kept)
        except OSError as error:
            log.warning("the spread is not kept", extra={"why": str(error)})

    def _remembered(self) -> tuple[dict[str, str], dict[str, float]]:
        try:
            body = json.loads(self._kept.read_bytes())
            workers = {str(camera): str(worker) for camera, worker in body["workers"].items()}
            return workers, {str(stream): float(bps) for stream, bps in body["bitrates_bps"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}


def _spread(
    streams: Streams,
    names: tuple[str, ...],
    earlier: Mapping[str, str],
    bitrates_bps: Mapping[str, float],
    tolerance: float,
) -> dict[str, str]:
    costs = {camera.id: camera_cost(camera, bitrates_bps) for camera in streams.cameras}
    return spread(costs, names, earlier, tolerance)


def _told(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "code": problem.code,
        "zh": problem.sentence("zh"),
        "en": problem.sentence("en"),
    }
