"""The life cycles of a case and of a task, as data: states, steps, who may take them, where they lead.

The case follows the digital-city-management loop of GB/T 30428 (collected, registered, dispatched, handled, reported
back, verified, closed, evaluated); a task is one person's order within it. Nothing here touches the database:
`apply.py` and `decide.py` ask these tables, the property tests walk them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Who = Literal["system", "holder", "operator"]


@dataclass(frozen=True)
class Step:
    """One arrow: from any of `origins` (None: does not exist yet) to `target`, taken by one of `who`.

    `advances`: whether the step makes a new revision. A mere receipt does not: what the person decides on is unchanged,
    and the revision is what a decision is checked against.
    """

    name: str
    origins: frozenset[str | None]
    target: str
    who: frozenset[Who]
    advances: bool = True


class Machine:
    """A table of steps, looked up by name; refuses at import a table that names an undeclared state."""

    def __init__(self, states: tuple[str, ...], final: frozenset[str], steps: tuple[Step, ...]) -> None:
        declared = set(states)
        for step in steps:
            undeclared = ({step.target} | {origin for origin in step.origins if origin is not None}) - declared
            if undeclared:
                raise ValueError(f"step {step.name!r} names undeclared states {sorted(undeclared)}")
        if final - declared or len({step.name for step in steps}) != len(steps):
            raise ValueError("undeclared final state, or a step is defined twice")
        self.states = states
        self.final = final
        self.steps = {step.name: step for step in steps}

    def next_state(self, state: str | None, step: str, who: Who) -> str | None:
        """Where `step` leads from `state` when `who` takes it; None when it is not allowed or not known."""
        found = self.steps.get(step)
        if found is None or state not in found.origins or who not in found.who:
            return None
        return found.target

    def allowed(self, state: str | None, who: Who) -> tuple[str, ...]:
        """The names of the steps that `who` may take in `state`."""
        return tuple(name for name in self.steps if self.next_state(state, name, who) is not None)


def _step(name: str, origins: str, target: str, who: str, advances: bool = True) -> Step:
    sources = frozenset(None if word == "-" else word for word in origins.split())
    return Step(name, sources, target, frozenset(who.split()), advances)  # type: ignore[arg-type]


_UNDER_WAY = "dispatched accepted on_site"
_WAITING = "collected registered sent_back reassigned reopened"

CASE = Machine(
    states=(
        "collected",
        "registered",
        "dispatched",
        "accepted",
        "on_site",
        "handled",
        "reported_back",
        "verified",
        "closed",
        "evaluated",
        "dismissed",
        "merged",
        "sent_back",
        "reassigned",
        "transferred",
        "suspended",
        "reopened",
    ),
    final=frozenset({"closed", "evaluated", "dismissed", "merged"}),
    steps=(
        _step("collect", "-", "collected", "system operator"),
        _step("register", "collected", "registered", "system operator"),
        _step("dispatch", "registered sent_back reassigned reopened", "dispatched", "system operator"),
        _step("accept", "dispatched", "accepted", "holder"),
        _step("arrive", "accepted", "on_site", "holder"),
        _step("handle", "accepted on_site", "handled", "holder"),
        _step("report_back", "handled transferred", "reported_back", "holder operator"),
        _step("refuse", _UNDER_WAY, "registered", "holder"),
        _step("expire", "dispatched", "registered", "system"),
        _step("verify", "reported_back", "verified", "operator"),
        _step("close", "verified", "closed", "system operator"),
        _step("evaluate", "closed", "evaluated", "system operator"),
        _step("send_back", "reported_back", "sent_back", "operator"),
        _step("reassign", _UNDER_WAY, "reassigned", "system operator"),
        _step("transfer", f"{_WAITING} {_UNDER_WAY}", "transferred", "operator"),
        _step("suspend", f"{_WAITING} {_UNDER_WAY}", "suspended", "operator"),
        _step("resume", "suspended", "registered", "operator"),
        _step("dismiss", f"{_WAITING} {_UNDER_WAY} reported_back suspended", "dismissed", "operator"),
        _step("merge", f"{_WAITING} {_UNDER_WAY} reported_back suspended", "merged", "system operator"),
        _step("reopen", "closed evaluated dismissed", "reopened", "operator"),
    ),
)

TASK = Machine(
    states=("offered", "received", "accepted", "on_site", "done", "refused", "recalled", "expired"),
    final=frozenset({"done", "refused", "recalled", "expired"}),
    steps=(
        _step("offered", "-", "offered", "system operator"),
        _step("received", "offered", "received", "holder", advances=False),
        _step("accepted", "offered received", "accepted", "holder"),
        _step("on_site", "accepted", "on_site", "holder"),
        _step("done", "accepted on_site", "done", "holder"),
        _step("refused", "offered received accepted on_site", "refused", "holder"),
        _step("recalled", "offered received accepted on_site", "recalled", "system operator"),
        _step("expired", "offered received", "expired", "system"),
    ),
)

# What a step of the lead task does to its case, in this order.
CASE_AFTER_LEAD: dict[str, tuple[str, ...]] = {
    "accepted": ("accept",),
    "on_site": ("arrive",),
    "done": ("handle", "report_back"),
    "refused": ("refuse", "dispatch"),
    "expired": ("expire", "dispatch"),
}

# What follows by itself after a person's step on the case. A `dispatch` that finds nobody is left out: the case waits.
CASE_FOLLOWS: dict[str, tuple[str, ...]] = {
    "verify": ("close",),
    "send_back": ("dispatch",),
    "reassign": ("dispatch",),
    "resume": ("dispatch",),
    "reopen": ("dispatch",),
}

# Steps that take the order away from whoever has it.
RECALLS_LEAD = frozenset({"reassign", "transfer", "suspend", "dismiss", "merge"})


def case_is_open(state: str) -> bool:
    """Whether the town still has to do something about the case."""
    return state not in CASE.final


def task_is_open(state: str) -> bool:
    """Whether the person still has the order."""
    return state not in TASK.final
