"""What the API reads. Lists are newest first, in pages by keyset (no offset): a page costs the same however deep it is,
and rows that arrive meanwhile never shift it. Every function takes an open connection and returns plain rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from command.store.rows import Page, Row, cursor_of, place_of

MAX_PAGE = 500

# An event shows its grid's name of that day.
_EVENT = """
    SELECT e.id, e.state, e.code, e.camera_id, k.name AS camera_name, e.rule_id, e.zone_id, e.priority,
           e.started_at, e.updated_at, e.ended_at, e.emitted_at, e.stored_at, e.score, e.object_class, e.box,
           e.lon, e.lat, e.place_from, e.grid_id, g.name AS grid_name, e.grid_match, e.village, e.evidence,
           e.attributes, e.revision, ce.case_id, c.number AS case_number
    FROM events e
    LEFT JOIN cameras k ON k.camera_id = e.camera_id
    LEFT JOIN LATERAL (
        SELECT v.name FROM grids v WHERE v.grid_id = e.grid_id
        ORDER BY v.valid_from <= e.started_at DESC, v.valid_from DESC LIMIT 1
    ) g ON true
    LEFT JOIN case_events ce ON ce.event_id = e.id
    LEFT JOIN cases c ON c.case_id = ce.case_id
"""
_TASK = """
    SELECT t.task_id, t.case_id, c.number AS case_number, c.code, t.revision, t.state, t.is_lead, t.person_id,
           p.name AS person_name, t.grid_id, g.name AS grid_name, t.offered_at, t.changed_at, t.due_at,
           NOT EXISTS (SELECT FROM outbox o WHERE o.task_id = t.task_id AND o.confirmed_at IS NULL) AS confirmed
    FROM tasks t
    JOIN cases c USING (case_id)
    JOIN people p ON p.person_id = t.person_id
    LEFT JOIN grids g ON g.grid_id = t.grid_id AND g.valid_to IS NULL
"""
_CASE = """
    SELECT c.case_id, c.number, c.revision, c.state, c.code, c.grid_id, g.name AS grid_name, c.village, c.camera_id,
           k.name AS camera_name, c.zone_id, c.lon, c.lat, c.opened_at, c.changed_at, c.closed_at,
           (SELECT count(*) FROM case_events ce WHERE ce.case_id = c.case_id) AS event_count
    FROM cases c
    LEFT JOIN cameras k ON k.camera_id = c.camera_id
    LEFT JOIN grids g ON g.grid_id = c.grid_id AND g.valid_to IS NULL
"""

Conn = AsyncConnection[Any]


@dataclass(frozen=True)
class EventFilter:
    """All that is given must hold. `since` is inclusive, `until` exclusive, both of `started_at`."""

    camera_id: str | None = None
    village: str | None = None
    grid_id: str | None = None
    code: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> tuple[list[str], dict[str, object]]:
        """SQL conditions and their values."""
        plain = {name: getattr(self, name) for name in ("camera_id", "village", "grid_id", "code", "state")}
        where, values = _equal("e", plain)
        if self.state in ("opened", "updated"):
            where.append("e.state <> 'closed'")  # lets the small index of what is going on serve
        if self.since is not None:
            where.append("e.started_at >= %(since)s")
            values["since"] = self.since
        if self.until is not None:
            where.append("e.started_at < %(until)s")
            values["until"] = self.until
        return where, values


async def events(conn: Conn, chosen: EventFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
    """A page of events, newest first.

    Raises:
        GridwatchError: `store.bad_cursor`.
    """
    where, values = chosen.conditions()
    return await _page(conn, _EVENT, where, values, ("e", "started_at", "id"), limit, cursor)


async def event(conn: Conn, event_id: UUID) -> Row | None:
    """One event as it stands, or None."""
    return await _one(conn, _EVENT + " WHERE e.id = %(id)s", {"id": event_id})


async def cases(
    conn: Conn,
    *,
    state: str | None = None,
    grid_id: str | None = None,
    code: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """A page of cases, newest first, each with `lead_task` (the newest lead task, as `tasks` gives it, or None)."""
    where, values = _equal("c", {"state": state, "grid_id": grid_id, "code": code})
    page = await _page(conn, _CASE, where, values, ("c", "opened_at", "case_id"), limit, cursor)
    await _put_lead_tasks(conn, page.items)
    return page


async def case(conn: Conn, case_id: UUID) -> Row | None:
    """One case with `events` (its own copies), `steps`, `tasks`, all oldest first, and `lead_task`; or None."""
    found = await _one(conn, _CASE + " WHERE c.case_id = %(id)s", {"id": case_id})
    if found is None:
        return None
    copies = await _all(
        conn,
        """
        SELECT ce.event || jsonb_build_object('camera_name', k.name, 'grid_name', g.name) AS event
        FROM case_events ce
        LEFT JOIN cameras k ON k.camera_id = ce.event ->> 'camera_id'
        LEFT JOIN grids g ON g.grid_id = ce.event ->> 'grid_id' AND g.valid_to IS NULL
        WHERE ce.case_id = %(id)s ORDER BY ce.started_at, ce.event_id
        """,
        {"id": case_id},
    )
    found["events"] = [{**copy["event"], "case_id": case_id, "case_number": found["number"]} for copy in copies]
    found["steps"] = await _all(
        conn,
        """
        SELECT s.step_id, s.revision, s.at, s.person_id, p.name AS person_name, s.step, s.from_state, s.to_state,
               s.note, s.detail
        FROM case_steps s LEFT JOIN people p USING (person_id)
        WHERE s.case_id = %(id)s ORDER BY s.revision
        """,
        {"id": case_id},
    )
    found["tasks"] = await _all(
        conn, _TASK + " WHERE t.case_id = %(id)s ORDER BY t.offered_at, t.task_id", {"id": case_id}
    )
    found["lead_task"] = next((task for task in reversed(found["tasks"]) if task["is_lead"]), None)
    return found


async def tasks(
    conn: Conn,
    *,
    person_id: str | None = None,
    state: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """A page of tasks, newest first. `confirmed`: no message about the task waits for the person's device."""
    where, values = _equal("t", {"person_id": person_id, "state": state})
    return await _page(conn, _TASK, where, values, ("t", "offered_at", "task_id"), limit, cursor)


async def task(conn: Conn, task_id: UUID) -> Row | None:
    """One task with `steps` (all that was said about it, oldest first), or None."""
    found = await _one(conn, _TASK + " WHERE t.task_id = %(id)s", {"id": task_id})
    if found is not None:
        found["steps"] = await _all(
            conn,
            """
            SELECT s.step_id, s.revision, s.at, s.received_at, s.person_id, p.name AS person_name, s.step,
                   s.from_state, s.to_state, s.applied, s.why, s.note, s.lon, s.lat, s.accuracy_m
            FROM task_steps s LEFT JOIN people p USING (person_id)
            WHERE s.task_id = %(id)s ORDER BY s.received_at, s.revision NULLS LAST, s.step_id
            """,
            {"id": task_id},
        )
    return found


async def cameras(conn: Conn, *, removed: bool = False) -> list[Row]:
    """All cameras by id; with `removed` also those that are no longer in streams.yaml."""
    return await _all(
        conn,
        """
        SELECT camera_id, name, village, lon, lat, heading_deg, zones, removed_at, removed_at IS NOT NULL AS removed
        FROM cameras WHERE removed_at IS NULL OR %(removed)s ORDER BY camera_id
        """,
        {"removed": removed},
    )


async def camera(conn: Conn, camera_id: str) -> Row | None:
    """One camera, removed or not, or None."""
    return next((row for row in await cameras(conn, removed=True) if row["camera_id"] == camera_id), None)


async def grids(conn: Conn) -> list[Row]:
    """The grids in force by id: `geometry` is GeoJSON, `roles` is role to name, `holders` role to person's id."""
    return await _all(
        conn,
        """
        SELECT g.grid_id, g.name, g.village, g.geometry, g.valid_from,
               coalesce(jsonb_object_agg(r.role, p.name) FILTER (WHERE r.role IS NOT NULL), '{}') AS roles,
               coalesce(jsonb_object_agg(r.role, p.person_id) FILTER (WHERE r.role IS NOT NULL), '{}') AS holders
        FROM grids g
        LEFT JOIN grid_roles r ON r.grid_id = g.grid_id
        LEFT JOIN people p ON p.person_id = r.person_id
        WHERE g.valid_to IS NULL
        GROUP BY g.grid_id, g.valid_from ORDER BY g.grid_id
        """,
        {},
    )


async def counts(conn: Conn) -> Row:
    """Totals: `events` (an estimate above 10,000), `open_cases`, `unconfirmed_tasks`, `outbox_open`, `dead_letters`."""
    found = await _one(
        conn,
        """
        SELECT (SELECT count(*) FROM (SELECT FROM events LIMIT 10001) few) AS events,
               (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'events'::regclass) AS estimate,
               (SELECT count(*) FROM cases WHERE closed_at IS NULL
                   AND state NOT IN ('closed', 'evaluated', 'dismissed', 'merged')) AS open_cases,
               (SELECT count(DISTINCT task_id) FROM outbox WHERE confirmed_at IS NULL) AS unconfirmed_tasks,
               (SELECT count(*) FROM outbox WHERE confirmed_at IS NULL) AS outbox_open,
               (SELECT count(*) FROM dead_letters) AS dead_letters
        """,
        {},
    )
    assert found is not None
    estimate = found.pop("estimate")
    if found["events"] > 10_000:
        found["events"] = max(estimate, found["events"])
    return found


async def _put_lead_tasks(conn: Conn, found: list[Row]) -> None:
    newest = await _all(
        conn,
        f"""
        SELECT DISTINCT ON (l.case_id) l.* FROM ({_TASK} WHERE t.case_id = ANY(%(ids)s) AND t.is_lead) l
        ORDER BY l.case_id, l.offered_at DESC, l.task_id DESC
        """,  # noqa: S608 - constants of this module
        {"ids": [row["case_id"] for row in found]},
    )
    lead = {row["case_id"]: row for row in newest}
    for row in found:
        row["lead_task"] = lead.get(row["case_id"])


def _equal(table: str, wanted: Mapping[str, object]) -> tuple[list[str], dict[str, object]]:
    given = {name: value for name, value in wanted.items() if value is not None}
    return [f"{table}.{name} = %({name})s" for name in given], given


async def _page(
    conn: Conn,
    select: str,
    where: list[str],
    values: dict[str, object],
    key: tuple[str, str, str],
    limit: int,
    cursor: str | None,
) -> Page:
    table, at, row_id = key
    limit = max(1, min(limit, MAX_PAGE))
    if cursor is not None:
        where = [*where, f"({table}.{at}, {table}.{row_id}) < (%(after_at)s, %(after_id)s)"]
        after_at, after_id = place_of(cursor)
        values = {**values, "after_at": after_at, "after_id": after_id}
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    order = f" ORDER BY {table}.{at} DESC, {table}.{row_id} DESC LIMIT %(limit)s"
    found = await _all(conn, select + condition + order, {**values, "limit": limit + 1})
    more = len(found) > limit
    found = found[:limit]
    return Page(found, cursor_of(found[-1][at], found[-1][row_id]) if more else None)


async def _all(conn: Conn, query: str, values: Mapping[str, object]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cur:
        await cur.execute(query.encode(), values)
        return await cur.fetchall()


async def _one(conn: Conn, query: str, values: Mapping[str, object]) -> Row | None:
    found = await _all(conn, query, values)
    return found[0] if found else None
