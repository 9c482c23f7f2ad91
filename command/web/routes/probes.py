"""For machines that watch this one: /healthz and /metrics; and what a page needs to know first: /api/v1/town."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version

import psycopg
from fastapi import APIRouter, Response

from command.store import queries
from command.web.camera_health import live_and_total
from command.web.metrics import Scrape, Stored, exposition
from command.web.reach import Connection, Hub, Lang, State
from command.web.rights import right
from command.web.shapes import Counts, HealthAnswer, PartShape, TownShape
from command.web.state import AppState
from ingest.errors import sentence

log = logging.getLogger(__name__)
router = APIRouter()

DATABASE_S = 2.0
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/api/v1/town", tags=["town"], dependencies=[right("town.read")])
async def read_town(conn: Connection, state: State) -> TownShape:
    """The town's time zone, the server's language and clock, and the counts of the header."""
    return TownShape(
        timezone=state.settings.timezone,
        lang=state.settings.lang,
        version=version("gridwatch"),
        now=state.clock.now(),
        counts=Counts.model_validate(await queries.counts(conn)),
    )


@router.get(
    "/healthz",
    tags=["probes"],
    dependencies=[right("health.read")],
    responses={503: {"model": HealthAnswer, "description": "a part does not run"}},
)
async def healthz(state: State, lang: Lang, response: Response) -> HealthAnswer:
    """Whether the chain runs: database, broker, workers. Cameras that are not live are counted, not a fault here."""
    reachable = await _database(state)
    parts = [PartShape(name="database", ok=reachable, reason=_why_away(reachable, lang))]
    told = state.parts()
    for part in told:
        why = None if part.reason_code is None else sentence(part.reason_code, lang, **dict(part.reason_facts))
        parts.append(PartShape(name=part.name, ok=part.ok, reason=why))
    live, total = live_and_total(state.health())
    ok = reachable and all(part.ok for part in told if part.is_vital)
    response.status_code = 200 if ok else 503
    return HealthAnswer(
        ok=ok,
        parts=parts,
        cameras_live=live,
        cameras_total=total,
        spooled_rows=sum(spool.rows for spool in state.spools()),
    )


def _why_away(reachable: bool, lang: str) -> str | None:
    return None if reachable else sentence("web.database_away", lang)


async def _database(state: AppState) -> bool:
    try:
        async with asyncio.timeout(DATABASE_S), state.pool.connection(timeout=DATABASE_S) as conn:
            await conn.execute("SELECT 1")
            return True
    except (psycopg.Error, TimeoutError, OSError) as error:
        log.warning("database does not answer", extra={"error": str(error)})
        return False


@router.get("/metrics", tags=["probes"], response_class=Response, dependencies=[right("metrics.read")])
async def metrics(state: State, hub: Hub) -> Response:
    """Prometheus text format. While the database is away its counts are missing and `gridwatch_part_up` says why."""
    scrape = Scrape(state.health(), state.spools(), state.parts(), await _stored(state), hub.count, hub.resyncs)
    return Response(exposition(scrape), media_type=EXPOSITION)


async def _stored(state: AppState) -> Stored | None:
    try:
        async with asyncio.timeout(DATABASE_S), state.pool.connection(timeout=DATABASE_S) as conn:
            return Stored(**await queries.counts(conn))
    except (psycopg.Error, TimeoutError, OSError) as error:
        log.warning("database does not answer", extra={"error": str(error)})
        return None
