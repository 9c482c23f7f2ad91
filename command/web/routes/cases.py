"""Cases and the steps that an operator takes on them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from command.dispatch.apply import Conflict, apply_case_step
from command.dispatch.states import CASE
from command.store import queries
from command.web.answers import Problem
from command.web.reach import Connection
from command.web.rights import right
from command.web.routes.events import Cursor, Limit
from command.web.shapes import CaseDetail, CaseShape, Page, StepAnswer, StepRequest
from ingest.errors import GridwatchError

router = APIRouter(prefix="/api/v1/cases", tags=["cases"])

OPERATOR = "operator"  # who stands in the records until people sign in
NEEDS_NOTE = frozenset({"send_back"})
# Steps that need more than a note (a new holder, another case) wait for their own forms.
STEPS = frozenset({"verify", "close", "dismiss", "send_back", "reassign", "suspend", "resume", "reopen", "evaluate"})


def allowed(state: str) -> list[str]:
    """What an operator may do with a case in this state."""
    return [step for step in CASE.allowed(state, "operator") if step in STEPS]


@router.get("", dependencies=[right("cases.read")])
async def list_cases(
    conn: Connection,
    state: Annotated[str | None, Query(max_length=40)] = None,
    grid_id: Annotated[str | None, Query(max_length=200)] = None,
    code: Annotated[str | None, Query(pattern=r"^\d+\.\d+$")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[CaseShape]:
    """Cases by their opening, newest first, each with its lead task."""
    page = await queries.cases(conn, state=state, grid_id=grid_id, code=code, limit=limit, cursor=cursor)
    return Page(items=[CaseShape.model_validate(row) for row in page.items], next=page.next)


@router.get("/{case_id}", dependencies=[right("cases.read")])
async def read_case(case_id: UUID, conn: Connection) -> CaseDetail:
    """One case: its events, steps and tasks, and what an operator may do next."""
    case = await queries.case(conn, case_id)
    if case is None:
        raise GridwatchError("web.unknown_case", case=case_id)
    return CaseDetail(**case, allowed_steps=allowed(case["state"]))


@router.post(
    "/{case_id}/steps",
    dependencies=[right("cases.step")],
    responses={409: {"model": Problem, "description": "the case has moved on; `detail` tells revision and state"}},
)
async def take_step(case_id: UUID, wanted: StepRequest, conn: Connection) -> StepAnswer:
    """Take a step on a case. Two operators at once: one wins, the other gets 409 with where the case stands."""
    if wanted.step not in STEPS:
        raise GridwatchError("web.unknown_step", step=wanted.step, steps=", ".join(sorted(STEPS)))
    if wanted.step in NEEDS_NOTE and not wanted.note:
        raise GridwatchError("web.note_needed", step=wanted.step)
    done = await apply_case_step(
        conn, case_id, wanted.expected_revision, wanted.step, OPERATOR, wanted.note, step_id=wanted.step_id
    )
    if isinstance(done, Conflict):
        if done.why == "case.unknown":
            raise GridwatchError("web.unknown_case", case=case_id)
        raise GridwatchError(
            {"case.stale": "web.case_moved_on", "case.nobody": "web.nobody_to_send"}.get(
                done.why, "web.step_not_allowed"
            ),
            step=wanted.step,
            state=done.state,
            expected=wanted.expected_revision,
            revision=done.revision,
            detail={"revision": done.revision, "state": done.state},
        )
    return StepAnswer(case_id=case_id, revision=done.revision, state=done.state, allowed_steps=allowed(done.state))
