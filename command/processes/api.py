"""The API process: HTTP API and page, the store's writer, the outbox relay and the intake of answers.

It keeps nothing that is not in the database or in a spool, so it may be killed at any instruction. While the database
is away it stays up, says so in /healthz, and goes on where it stopped.
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
from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.answers import Answers
from command.dispatch.decide import decide
from command.dispatch.outbox import OutboxRelay
from command.dispatch.topics import SERVICE
from command.grids import Grids, read_grids
from command.processes.child import beat, every, run_child
from command.settings import Settings
from command.store.pool import Pool, open_pool
from command.store.town import Town, sync_town
from command.store.writer import SpoolWriter
from command.web.app import create_app
from command.web.server import WebServer
from command.web.state import AppState, PartHealth, SpoolDepth
from command.worker_report import WorkerReports
from ingest.bell import Bell
from ingest.clock import SystemClock
from ingest.spool import Spool
from ingest.streams import Streams, read_streams

log = logging.getLogger(__name__)

PART_SILENT_AFTER_S = 5.0


class Parts:
    """The other processes as their heartbeat files show them."""

    def __init__(self, run: Path, names: Sequence[str]) -> None:
        self._files = {name: run / f"{name}.json" for name in names}

    def __call__(self) -> list[PartHealth]:
        """One entry a process, healthy if its heart beat within the last seconds."""
        found = []
        for name, path in self._files.items():
            try:
                silent_s = max(0.0, time.time() - path.stat().st_mtime)
            except FileNotFoundError:
                silent_s = float("inf")
            ok = silent_s <= PART_SILENT_AFTER_S
            shown = "—" if silent_s == float("inf") else f"{silent_s:.0f}"
            facts = {} if ok else {"part": name, "silent_s": shown}
            found.append(PartHealth(name, ok, None if ok else "part.silent", facts))
        return found


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
    streams, _ = read_streams(settings.streams)
    grids, _ = read_grids(settings.grids)
    assert streams is not None and grids is not None  # the supervisor has refused unreadable files
    clock = SystemClock()
    broker = MqttAddress.of_url(
        settings.mqtt_url or f"mqtt://{settings.host}:{settings.mqtt_port}",
        SERVICE,
        Accounts(settings.secrets).password(SERVICE),
    )
    bell = Bell(settings.run / "store.bell")
    reports = WorkerReports(settings.run)
    answers_spool = Spool(settings.spools / "answers" / "answers.spool")
    answers = Answers(settings.database_url, broker, answers_spool, clock)
    relay = OutboxRelay(settings.database_url, broker, clock)
    writer = SpoolWriter(settings.database_url, settings.spools, Town(streams, grids), decide, bell=bell, clock=clock)
    names = ["media", "worker-1", *(() if settings.mqtt_url else ("broker",))]

    def spools() -> list[SpoolDepth]:
        depths = [SpoolDepth(*depth) for depth in writer.depths()]
        return [*depths, SpoolDepth("answers", answers_spool.count, answers_spool.bytes)]

    async with open_pool(settings.database_url) as pool:
        await _sync(pool, streams, grids)
        state = AppState(
            settings=settings,
            conninfo=settings.database_url,
            pool=pool,
            health=reports.health,
            pictures=LastPictures(settings.pictures),
            evidence=EvidenceStore(settings.evidence),
            media_socket=settings.media_socket,
            parts=Parts(settings.run, names),
            spools=spools,
            clock=clock,
        )
        async with WebServer(create_app(state), settings.host, settings.port):
            jobs = [
                asyncio.create_task(writer.run(), name="spool-writer"),
                asyncio.create_task(relay.run(), name="outbox-relay"),
                asyncio.create_task(answers.run(), name="answers"),
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(every(1.0, stop, lambda: beat(settings.run / "api.json", json.dumps({})))),
            ]
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs, timeout=5)
            for job in done:
                job.result()  # an unexpected end is an error: the supervisor starts this process again


if __name__ == "__main__":
    run_child("api", main)
