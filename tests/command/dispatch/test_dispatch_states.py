"""The tables: no walk leaves the declared states, none leaves two lead holders or an order after the case's end."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from command.dispatch.states import (
    CASE,
    CASE_AFTER_LEAD,
    CASE_FOLLOWS,
    RECALLS_LEAD,
    TASK,
    Machine,
    Step,
    Who,
    task_is_open,
)

WHO = st.sampled_from(get_args(Who))
CASE_STEPS = st.sampled_from(sorted(CASE.steps))
TASK_STEPS = st.sampled_from(sorted(TASK.steps))


@given(st.lists(st.tuples(st.sampled_from([*CASE.steps, "unheard of"]), WHO), max_size=40))
def test_no_walk_reaches_an_undeclared_case_state(walk: list[tuple[str, Who]]) -> None:
    state: str | None = None
    for name, who in walk:
        state = CASE.next_state(state, name, who) or state
        assert state is None or state in CASE.states


@given(st.lists(st.tuples(TASK_STEPS, WHO), max_size=20))
def test_a_finished_task_stays_finished(walk: list[tuple[str, Who]]) -> None:
    state: str | None = None
    for name, who in walk:
        target = TASK.next_state(state, name, who)
        assert target is None or state not in TASK.final
        state = target or state


@pytest.mark.parametrize("machine", [CASE, TASK], ids=["case", "task"])
def test_every_state_can_be_reached_and_left(machine: Machine) -> None:
    reached: set[str | None] = {None}
    while more := {s.target for s in machine.steps.values() if s.origins & reached} - reached:
        reached |= more
    assert reached - {None} == set(machine.states)
    left = {origin for step in machine.steps.values() for origin in step.origins}
    assert set(machine.states) - machine.final <= left


def test_a_table_that_names_an_undeclared_state_is_refused() -> None:
    with pytest.raises(ValueError, match="undeclared"):
        Machine(("a",), frozenset(), (Step("go", frozenset({"a"}), "b", frozenset({"system"})),))
    twice = Step("go", frozenset({"a"}), "a", frozenset({"system"}))
    with pytest.raises(ValueError, match="twice"):
        Machine(("a",), frozenset(), (twice, twice))


class Matter(RuleBasedStateMachine):
    """A case and its lead tasks moved by the tables alone, as `apply.py` moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.case: str | None = None
        self.leads: list[str] = []

    def _case_step(self, name: str, who: Who) -> bool:
        target = CASE.next_state(self.case, name, who)
        if target is None:
            return False
        if name in RECALLS_LEAD:
            self.leads = [
                TASK.next_state(lead, "recalled", "system") or "lost" if task_is_open(lead) else lead
                for lead in self.leads
            ]
        self.case = target
        if name == "dispatch":
            self.leads.append("offered")
        return True

    @rule(name=CASE_STEPS.filter(lambda name: name not in ("accept", "arrive", "handle", "refuse", "expire")))
    def operator(self, name: str) -> None:
        if self._case_step(name, "operator"):
            for follow in CASE_FOLLOWS.get(name, ()):
                assert self._case_step(follow, "system"), f"{follow} must be possible after {name}"

    @rule(name=TASK_STEPS, who=st.sampled_from(["holder", "system"]))
    def device(self, name: str, who: Who) -> None:
        if not self.leads or name == "recalled":
            return
        target = TASK.next_state(self.leads[-1], name, who)
        if target is None:
            return
        self.leads[-1] = target
        for follow in CASE_AFTER_LEAD.get(name, ()):
            actor: Who = "system" if follow in ("dispatch", "expire") else "holder"
            assert self._case_step(follow, actor), f"{follow} must be possible from {self.case} after {name}"

    @invariant()
    def states_are_declared(self) -> None:
        assert self.case is None or self.case in CASE.states
        assert set(self.leads) <= set(TASK.states)

    @invariant()
    def one_lead_holder(self) -> None:
        assert sum(task_is_open(lead) for lead in self.leads) <= 1

    @invariant()
    def an_order_is_open_exactly_while_the_case_is_under_way(self) -> None:
        under_way = self.case in ("dispatched", "accepted", "on_site")
        assert any(task_is_open(lead) for lead in self.leads) == under_way


def test_case_and_lead_task_walk_together() -> None:
    run_state_machine_as_test(Matter, settings=settings(max_examples=150, stateful_step_count=25, deadline=None))
