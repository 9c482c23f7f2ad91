"""Tasks: who was told to do what, and what the person said."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from command.store import queries
from command.web.reach import Connection
from command.web.rights import right
from command.web.routes.events import Cursor, Limit
from command.web.shapes import Page, TaskDetail, TaskShape
from ingest.errors import GridwatchError

router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])


@router.get("", dependencies=[right("tasks.read")])
async def list_tasks(
    conn: Connection,
    state: Annotated[str | None, Query(max_length=40)] = None,
    person_id: Annotated[str | None, Query(max_length=64)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[TaskShape]:
    """Tasks by when they were offered, newest first."""
    page = await queries.tasks(conn, state=state, person_id=person_id, limit=limit, cursor=cursor)
    return Page(items=[TaskShape.model_validate(row) for row in page.items], next=page.next)


@router.get("/{task_id}", dependencies=[right("tasks.read")])
async def read_task(task_id: UUID, conn: Connection) -> TaskDetail:
    """One task with everything that was said about it."""
    row = await queries.task(conn, task_id)
    if row is None:
        raise GridwatchError("web.unknown_task", task=task_id)
    return TaskDetail.model_validate(row)
