"""The smoke run: the whole chain once, judged from outside, as one line of JSON and an exit code.

`camera_to_event_s`: from the moment the camera took the picture that opened the event to the event's commit.
`event_to_task_ms`: from the event's commit to the task's receipt on the patroller's device, as the device confirmed it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import click
import psycopg

from command.running_town import RunningTown
from command.worker_report import WorkerReports
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

LIMIT_S = 120.0

_DONE = """
SELECT extract(epoch FROM e.stored_at - e.started_at)::float8,
       1000 * extract(epoch FROM o.confirmed_at - e.stored_at)::float8,
       t.person_id, c.grid_id, e.camera_id
FROM tasks t
JOIN cases c USING (case_id)
JOIN case_events ce USING (case_id)
JOIN events e ON e.id = ce.event_id AND e.started_at = ce.started_at
JOIN outbox o ON o.task_id = t.task_id AND o.confirmed_at IS NOT NULL
WHERE t.state = 'done'
  AND EXISTS (SELECT FROM task_steps s WHERE s.task_id = t.task_id AND s.applied AND s.to_state = 'accepted')
ORDER BY e.stored_at, o.created_at
LIMIT 1
"""
_COUNTS = """
SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM cases), (SELECT count(*) FROM tasks),
       (SELECT count(*) FROM task_steps WHERE applied AND to_state = 'accepted')
"""


async def smoke(town: RunningTown, set_up_ended_s: float) -> int:
    """Run the town until the first task has been accepted and reported back; print the line, return the exit code."""
    try:
        try:
            async with asyncio.timeout(LIMIT_S - (time.monotonic() - set_up_ended_s)):
                await town.start()
                ready_s = time.monotonic() - set_up_ended_s
                answer = await _first_done(town)
        except TimeoutError:
            raise await _too_late(town) from None
        answer = {"ok": True, **answer, "ready_s": round(ready_s, 2)}
    except GridwatchError as error:
        answer = {"ok": False, "code": error.code, "reason": error.sentence(town.settings.lang)}
    finally:
        await town.stop()
    click.echo(json.dumps(answer, ensure_ascii=False))
    return 0 if answer["ok"] else 1


async def _first_done(town: RunningTown) -> dict[str, Any]:
    async with await psycopg.AsyncConnection.connect(town.conninfo, autocommit=True) as conn:
        while True:
            row = await (await conn.execute(_DONE)).fetchone()
            if row is not None:
                camera_to_event_s, event_to_task_ms, person, grid, camera = row
                return {
                    "camera_to_event_s": round(camera_to_event_s, 3),
                    "event_to_task_ms": round(event_to_task_ms, 1),
                    "camera": camera,
                    "grid": grid,
                    "person": person,
                }
            await asyncio.sleep(0.1)


async def _too_late(town: RunningTown) -> GridwatchError:
    live, counts = 0, (0, 0, 0, 0)
    if town.conninfo:
        live = sum(stream.state == "live" for stream in WorkerReports(town.settings.run).health())
        try:
            async with await psycopg.AsyncConnection.connect(town.conninfo, connect_timeout=3) as conn:
                counts = await (await conn.execute(_COUNTS)).fetchone() or counts
        except psycopg.Error as error:
            log.warning("the database does not answer", extra={"why": str(error).strip()})
    events, cases, tasks, accepted = counts
    return GridwatchError(
        "demo.smoke_timeout",
        limit_s=int(LIMIT_S),
        live=live,
        events=events,
        cases=cases,
        tasks=tasks,
        accepted=accepted,
    )
