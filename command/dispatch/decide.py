"""From events to orders: each opened event joins the open case of its cause, or makes a case and a lead task.

Runs inside the transaction that stores the events, for the whole batch at once. A replayed batch makes nothing twice
(an event belongs to at most one case, by key). A case whose grid is unknown or has no holder stays `registered`: it is
seen on the page and in `cases_without_holder`, and an operator's `dispatch` step gives it out later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from command.dispatch.notify import Change, notify_changes, ring_outbox
from command.dispatch.offer import Offer, holders, offer_tasks
from command.dispatch.states import CASE
from ingest.event import EVENT_CODES, new_id

log = logging.getLogger(__name__)

# Video alarms that someone has to look at. Left out: motion (5.2) without a rule behind it would order people about for
# leaves in the wind, and a flow count (5.9) is a figure. Device alarms (2.x) are for maintenance, not for patrollers.
OPENING_CODES = frozenset(code for code in EVENT_CODES if code.startswith("5.")) - {"5.2", "5.9"}

COOLDOWN_S = 300.0
MERGE_SPAN_S = 86_400.0  # a case older than this takes no more events: a matter of days deserves a new order

_ONE_DECIDER = 0x67726964_64656369  # advisory lock: two writers must not both open the case of one cause


class OpenedEvent(Protocol):
    """What is read of a stored event (`command.store` has more)."""

    @property
    def id(self) -> UUID: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def code(self) -> str: ...
    @property
    def camera_id(self) -> str | None: ...
    @property
    def zone_id(self) -> str | None: ...
    @property
    def grid_id(self) -> str | None: ...
    @property
    def village(self) -> str | None: ...
    @property
    def lon(self) -> float | None: ...
    @property
    def lat(self) -> float | None: ...


Cause = tuple[str, str | None, str]  # camera, zone, code


@dataclass
class _Matter:
    """A case of the database or of this batch, with the span of its events."""

    case_id: UUID
    first_at: datetime
    last_at: datetime
    opened_by: OpenedEvent | None = None  # set when this batch makes the case
    holder: str | None = None
    joined: list[OpenedEvent] = field(default_factory=list)

    def takes(self, at: datetime, cooldown: timedelta) -> bool:
        near = self.first_at - cooldown <= at <= self.last_at + cooldown
        return near and at - self.first_at <= timedelta(seconds=MERGE_SPAN_S)

    def join(self, event: OpenedEvent) -> None:
        self.joined.append(event)
        self.first_at = min(self.first_at, event.started_at)
        self.last_at = max(self.last_at, event.started_at)


async def decide(
    conn: psycopg.AsyncConnection[Any], events: Sequence[OpenedEvent], *, cooldown_s: float = COOLDOWN_S
) -> None:
    """Attach `events` to cases or open cases for them; must run in the transaction that stored them.

    Raises:
        psycopg.Error: whatever the database says; the caller's transaction is then rolled back and tried again.
    """
    opening = {event.id: event for event in events if event.code in OPENING_CODES}
    if not opening:
        return
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_ONE_DECIDER,))
    for event_id in await _attached(conn, opening):
        del opening[event_id]
    if not opening:
        return
    fresh = sorted(opening.values(), key=lambda event: (event.started_at, event.id))
    matters = await _sort_into_cases(conn, fresh, timedelta(seconds=cooldown_s))
    made = [matter for matter in matters if matter.opened_by is not None]
    people = await holders(conn, {m.opened_by.grid_id for m in made if m.opened_by and m.opened_by.grid_id})
    for matter in made:
        grid_id = matter.opened_by.grid_id if matter.opened_by else None
        matter.holder = next(iter(people.get(grid_id or "", ())), None)
    await _write_cases(conn, made)
    await _copy_events(conn, matters)
    offers = [
        Offer(new_id(), matter.case_id, matter.opened_by.grid_id, matter.holder)
        for matter in made
        if matter.holder is not None and matter.opened_by is not None
    ]
    await offer_tasks(conn, offers)
    changes: list[Change] = [("case", matter.case_id) for matter in matters]
    changes += [("task", offer.task_id) for offer in offers]
    await notify_changes(conn, changes)
    await ring_outbox(conn)
    if len(offers) < len(made):
        nobody = {m.opened_by.grid_id for m in made if m.holder is None and m.opened_by is not None}
        log.warning(
            "cases wait without a holder",
            extra={"cases": len(made) - len(offers), "grids": sorted(grid or "none" for grid in nobody)},
        )


async def cases_without_holder(conn: psycopg.AsyncConnection[Any]) -> int:
    """How many cases wait for somebody to give them out; for the page and the metrics."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT count(*) FROM cases WHERE state = ANY(%s)", (["registered", "sent_back", "reassigned", "reopened"],)
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


async def _attached(conn: psycopg.AsyncConnection[Any], event_ids: Iterable[UUID]) -> list[UUID]:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT event_id FROM case_events WHERE event_id = ANY(%s)", (list(event_ids),))
        return [row[0] for row in await cursor.fetchall()]


async def _sort_into_cases(
    conn: psycopg.AsyncConnection[Any], events: Sequence[OpenedEvent], cooldown: timedelta
) -> list[_Matter]:
    """The cases that `events` (oldest first) belong to; an event without a camera is a matter of its own."""
    known = await _open_cases(conn, events)
    touched: list[_Matter] = []
    for event in events:
        matter: _Matter | None = None
        if event.camera_id is not None:
            matters = known.setdefault((event.camera_id, event.zone_id, event.code), [])
            matter = next((m for m in matters if m.takes(event.started_at, cooldown)), None)
        if matter is None:
            matter = _Matter(new_id(), event.started_at, event.started_at, opened_by=event)
            if event.camera_id is not None:
                matters.append(matter)
        if not matter.joined:
            touched.append(matter)
        matter.join(event)
    return touched


async def _open_cases(conn: psycopg.AsyncConnection[Any], events: Sequence[OpenedEvent]) -> dict[Cause, list[_Matter]]:
    """Open cases of the events' causes, newest first, locked against a simultaneous closing."""
    causes = sorted({(e.camera_id, e.zone_id or "", e.code) for e in events if e.camera_id is not None})
    since = events[0].started_at - timedelta(seconds=MERGE_SPAN_S)
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            """
            WITH mine AS (
                SELECT c.case_id, c.camera_id, c.zone_id, c.code, c.opened_at
                FROM cases c
                JOIN unnest(%s::text[], %s::text[], %s::text[]) AS k(camera_id, zone_id, code)
                  ON c.camera_id = k.camera_id AND c.code = k.code AND coalesce(c.zone_id, '') = k.zone_id
                WHERE c.opened_at >= %s AND c.state <> ALL(%s)
                ORDER BY c.case_id
                FOR NO KEY UPDATE OF c
            )
            SELECT case_id, camera_id, zone_id, code, min(started_at), max(started_at)
            FROM mine JOIN case_events USING (case_id)
            GROUP BY case_id, camera_id, zone_id, code, opened_at
            ORDER BY opened_at DESC, case_id DESC
            """,
            ([c[0] for c in causes], [c[1] for c in causes], [c[2] for c in causes], since, sorted(CASE.final)),
        )
        found: dict[Cause, list[_Matter]] = {}
        for case_id, camera_id, zone_id, code, first_at, last_at in await cursor.fetchall():
            found.setdefault((camera_id, zone_id, code), []).append(_Matter(case_id, first_at, last_at))
        return found


async def _write_cases(conn: psycopg.AsyncConnection[Any], made: Sequence[_Matter]) -> None:
    """Case rows and their first steps: collected, registered, and dispatched where somebody gets the task."""
    if not made:
        return
    opened = [(matter, matter.opened_by) for matter in made if matter.opened_by is not None]
    await conn.execute(
        """
        INSERT INTO cases (case_id, revision, state, code, grid_id, village, camera_id, zone_id, lon, lat,
                           opened_at, changed_at)
        SELECT case_id, CASE WHEN held THEN 3 ELSE 2 END, CASE WHEN held THEN 'dispatched' ELSE 'registered' END,
               code, grid_id, village, camera_id, zone_id, lon, lat, opened_at, now()
        FROM unnest(%s::uuid[], %s::bool[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                    %s::float8[], %s::float8[], %s::timestamptz[]) WITH ORDINALITY
             AS n(case_id, held, code, grid_id, village, camera_id, zone_id, lon, lat, opened_at, place)
        ORDER BY place
        """,
        (
            [matter.case_id for matter, _ in opened],
            [matter.holder is not None for matter, _ in opened],
            [event.code for _, event in opened],
            [event.grid_id for _, event in opened],
            [event.village for _, event in opened],
            [event.camera_id for _, event in opened],
            [event.zone_id for _, event in opened],
            [event.lon for _, event in opened],
            [event.lat for _, event in opened],
            [event.started_at for _, event in opened],
        ),
    )
    steps: list[tuple[UUID, UUID, int, str, str | None, str]] = []
    for matter in made:
        state: str | None = None
        for revision, name in enumerate(
            ("collect", "register", "dispatch") if matter.holder else ("collect", "register")
        ):
            target = CASE.next_state(state, name, "system")
            assert target is not None, f"the table refuses {name} from {state}"
            steps.append((new_id(), matter.case_id, revision + 1, name, state, target))
            state = target
    await conn.execute(
        """
        INSERT INTO case_steps (step_id, case_id, revision, at, step, from_state, to_state)
        SELECT step_id, case_id, revision, now(), step, from_state, to_state
        FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::text[])
             AS n(step_id, case_id, revision, step, from_state, to_state)
        """,
        tuple(list(column) for column in zip(*steps, strict=True)),
    )


async def _copy_events(conn: psycopg.AsyncConnection[Any], matters: Sequence[_Matter]) -> None:
    pairs = [(matter.case_id, event) for matter in matters for event in matter.joined]
    await conn.execute(
        """
        INSERT INTO case_events (case_id, event_id, started_at, event)
        SELECT n.case_id, e.id, e.started_at, to_jsonb(e)
        FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[]) AS n(case_id, event_id, started_at)
        JOIN events e ON e.started_at = n.started_at AND e.id = n.event_id
        """,
        ([case_id for case_id, _ in pairs], [event.id for _, event in pairs], [event.started_at for _, event in pairs]),
    )
