"""The API process: HTTP API and page, the store's writer, the outbox relay and the intake of answers.

It keeps nothing that is not in the database or in a spool, so it may be killed at any instruction. While the database
is away it stays up, says so in /healthz, and goes on where it stopped. It works by the accepted town
(`command.accepted_town`) and follows its generations into the tables.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg_pool import PoolTimeout

from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from command.accepted_town import TownFile
from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.answers import Answers
from command.dispatch.decide import decide
from command.dispatch.outbox import OutboxRelay
from command.dispatch.topics import SERVICE
from command.grids import Grids
from command.health_history import HealthHistory
from command.processes.child import beat, every, run_child
from command.settings import Settings
from command.store.pool import Pool, open_pool
from command.store.segments import SegmentDrain
from command.store.town import Town, sync_town
from command.store.writer import SpoolWriter
from command.web.app import create_app
from command.web.server import WebServer
from command.web.state import AppState, PartHealth, SpoolDepth
from command.worker_report import WorkerReports
from ingest.bell import Bell
from ingest.clock import SystemClock
from ingest.spool import Spool
from ingest.streams import Streams

log = logging.getLogger("command.processes.api")

PART_SILENT_AFTER_S = 5.0
FOLLOW_EVERY_S = 0.25


class Parts:
    """The other processes as their heartbeat files show them, and whether the last edit of the town was taken."""

    def __init__(self, run: Path, names: Sequence[str], published: TownFile) -> None:
        self._run = run
        self._names = names
        self._published = published

    def __call__(self) -> list[PartHealth]:
        """One entry a process, healthy if its heart beat within the last seconds."""
        town = self._published.read()
        found = [self._process(name) for name in [*self._names, *town.worker_names]]
        refused = town.refused
        if refused is None:
            return [*found, PartHealth("configuration", True, is_vital=False)]
        facts = {key: str(value) for key, value in refused.model_dump().items()}
        return [*found, PartHealth("configuration", False, "reload.refused", facts, is_vital=False)]

    def _process(self, name: str) -> PartHealth:
        try:
            silent_s = max(0.0, time.time() - (self._run / f"{name}.json").stat().st_mtime)
        except FileNotFoundError:
            silent_s = float("inf")
        if silent_s <= PART_SILENT_AFTER_S:
            return PartHealth(name, True)
        shown = "—" if silent_s == float("inf") else f"{silent_s:.0f}"
        return PartHealth(name, False, "part.silent", {"part": name, "silent_s": shown})


class TownTables:
    """Keeps the tables and the writer's town at the published generation."""

    def __init__(self, published: TownFile, pool: Pool, writer: SpoolWriter) -> None:
        self._published = published
        self._pool = pool
        self._writer = writer
        self.generation = 0

    async def follow(self) -> None:
        """Look for a newer generation for ever."""
        while True:
            await self.catch_up()
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def catch_up(self) -> None:
        """To the generation published now; waits for the database as long as it takes."""
        town = self._published.read()
        if town.generation == self.generation:
            return
        grids = await asyncio.to_thread(self._published.read_grids)
        await _sync(self._pool, town.streams, grids)
        self._writer.town = Town(town.streams, grids)
        self.generation = town.generation


async def _sync(pool: Pool, streams: Streams, grids: Grids) -> None:
    """Bring the files' cameras, grids and people into the tables; waits for the database as long as it takes."""
    while True:
        try:
            async with pool.connection() as conn:
                await sync_town(conn, streams, grids)
                return
        except (psycopg.OperationalError, PoolTimeout) as error:
            log.warning("the town waits for the database", extra={"why": str(error).strip()})
            await asyncio.sleep(0.5)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    assert settings.database_url is not None
    published = TownFile(settings.run)
    town = Town(published.read().streams, published.read_grids())
    clock = SystemClock()
    broker = MqttAddress.of_url(
        settings.mqtt_url or f"mqtt://{settings.host}:{settings.mqtt_port}",
        SERVICE,
        Accounts(settings.secrets).password(SERVICE),
    )
    bell = Bell(settings.run / "store.bell")
    reports = WorkerReports(settings.run)
    heart = settings.run / "api.json"
    answers_spool = Spool(settings.spools / "answers" / "answers.spool")
    answers = Answers(settings.database_url, broker, answers_spool, clock)
    relay = OutboxRelay(settings.database_url, broker, clock)
    writer = SpoolWriter(settings.database_url, settings.spools, town, decide, bell=bell, clock=clock)
    segments = SegmentDrain(settings.database_url, settings.spools)
    names = ["media", *(() if settings.mqtt_url else ("broker",))]

    def spools() -> list[SpoolDepth]:
        depths = [SpoolDepth(*depth) for depth in writer.depths()]
        return [*depths, SpoolDepth("answers", answers_spool.count, answers_spool.bytes)]

    async with open_pool(settings.database_url) as pool:
        tables = TownTables(published, pool, writer)
        await tables.catch_up()
        state = AppState(
            settings=settings,
            conninfo=settings.database_url,
            pool=pool,
            health=reports.health,
            pictures=LastPictures(settings.pictures),
            evidence=EvidenceStore(settings.evidence),
            media_socket=settings.media_socket,
            parts=Parts(settings.run, names, published),
            spools=spools,
            clock=clock,
        )
        async with WebServer(create_app(state), settings.host, settings.port):
            jobs = [
                asyncio.create_task(writer.run(), name="spool-writer"),
                asyncio.create_task(segments.run(), name="segment-drain"),
                asyncio.create_task(relay.run(), name="outbox-relay"),
                asyncio.create_task(answers.run(), name="answers"),
                asyncio.create_task(HealthHistory(pool, reports.health, clock).run(), name="health-history"),
                asyncio.create_task(tables.follow(), name="town-tables"),
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(
                    every(1.0, stop, lambda: beat(heart, json.dumps({"generation": tables.generation})))
                ),
            ]
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs, timeout=5)
            for job in done:
                job.result()  # an unexpected end is an error: the supervisor starts this process again


if __name__ == "__main__":
    run_child("api", main)
