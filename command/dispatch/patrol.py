"""A patroller's device: hears tasks, confirms them, answers, and loses nothing when the network or the program dies.

Used by `gridwatch patrol`, by tests and by the bench; a telephone app does the same (`docs/ref/mqtt.md`). What it
knows is one small file, replaced as a whole: the tasks (newest revision each) and the steps that are not settled yet.
A message is confirmed after it is in the file; a step is in the file before it is sent, and is sent again until a
message names its `answer_id`. A message's (task, revision) that is known already is confirmed again and otherwise
ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiomqtt
from pydantic import BaseModel, ValidationError

from command.dispatch.address import MqttAddress, refused
from command.dispatch.states import TASK
from command.dispatch.topics import answers_topic, presence_topic, tasks_topic
from command.dispatch.wire import Answer, AnswerStep, TaskMessage
from ingest.clock import Clock
from ingest.errors import GridwatchError
from ingest.event import new_id

log = logging.getLogger(__name__)

KEPT_TASKS = 500  # finished ones beyond it are forgotten, oldest first
REPEAT_FIRST_S = 3.0
REPEAT_CAP_S = 30.0
RECONNECT_FIRST_S = 0.2
RECONNECT_CAP_S = 3.0
_NO_RIGHT = 128  # SUBACK return code of 3.1.1


class _Step(BaseModel):
    """A step whose outcome is not known; one that `follows` another waits for it and takes over its revision."""

    answer: Answer
    follows: UUID | None = None


class _Memory(BaseModel):
    """The device's file."""

    tasks: dict[UUID, TaskMessage] = {}
    steps: list[_Step] = []


@dataclass
class _Sending:
    """How often an unsettled step was sent on this run, and when it is due again."""

    times: int = 0
    due_s: float = 0.0


@dataclass
class DeviceCounts:
    """What the device has met; tests prove with it that nothing is doubled for the person."""

    messages: int = 0
    shown: int = 0  # messages with a (task, revision) that was new
    repeated: int = 0
    connects: int = 0
    unreadable: int = 0


@dataclass
class PatrolDevice:
    """One device of one person: `await run()` until cancelled, `answer(...)` at any time.

    `on_task` is called once for each new (task, revision); `on_settled` once for each answer, with what became of it.
    `state_path` None keeps everything in memory (tests). `device` makes several devices of one person distinct.
    """

    address: MqttAddress
    person_id: str
    clock: Clock
    state_path: Path | None = None
    device: str = "patrol"
    on_task: Callable[[TaskMessage], None] = lambda _: None
    on_settled: Callable[[Answer, TaskMessage], None] = lambda _answer, _message: None
    on_connection: Callable[[bool], None] = lambda _: None
    repeat_first_s: float = REPEAT_FIRST_S
    counts: DeviceCounts = field(default_factory=DeviceCounts)
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._memory = _load(self.state_path)
        self._sending: dict[UUID, _Sending] = {}
        self._poke = asyncio.Event()

    @property
    def tasks(self) -> dict[UUID, TaskMessage]:
        """The newest known state of each task, oldest first."""
        return self._memory.tasks

    @property
    def unsettled(self) -> list[Answer]:
        """Steps whose outcome is not known yet, in the order they were taken."""
        return [step.answer for step in self._memory.steps]

    def answer(
        self,
        task_id: UUID,
        step: AnswerStep,
        note: str | None = None,
        *,
        lon: float | None = None,
        lat: float | None = None,
        accuracy_m: float | None = None,
    ) -> Answer:
        """Take a step on a known task; it is on disk when this returns and is sent as soon as the network allows.

        A step upon a task whose previous step is not settled yet waits for it, and falls with it.

        Raises:
            KeyError: the device has never heard of the task.
            OSError: the file could not be written; the step is not taken.
        """
        task = self.tasks[task_id]
        answer = Answer(
            answer_id=new_id(),
            person_id=self.person_id,
            outbox_id=task.outbox_id,
            task_id=task_id,
            task_revision=task.task_revision or 1,
            step=step,
            note=note,
            at=self.clock.now(),
            lon=lon,
            lat=lat,
            accuracy_m=accuracy_m,
        )
        before = [one.answer_id for one in self.unsettled if one.task_id == task_id]
        step_taken = _Step(answer=answer, follows=before[-1] if before else None)
        self._memory.steps.append(step_taken)
        try:
            self._save()
        except OSError:
            self._memory.steps.remove(step_taken)
            raise
        self._poke.set()
        return answer

    async def run(self) -> None:
        """Stay connected until cancelled, then say "offline".

        Raises:
            GridwatchError: `dispatch.mqtt_refused` when the broker refuses the account at the first try,
                `dispatch.mqtt_no_right` when it refuses the person's own topic.
        """
        wait_s = RECONNECT_FIRST_S
        while True:
            wrong_account = False
            try:
                await self._connection()
            except* aiomqtt.MqttError as errors:
                log.debug("device is not connected", extra={"person": self.person_id, "reason": str(errors.exceptions)})
                wrong_account = any(isinstance(one, aiomqtt.MqttError) and refused(one) for one in errors.exceptions)
            if wrong_account and not self.counts.connects:
                raise GridwatchError("dispatch.mqtt_refused", person=self.person_id)
            if self.connected.is_set():
                self.connected.clear()
                self.on_connection(False)
                wait_s = RECONNECT_FIRST_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  jitter, so that a town does not return at once
            wait_s = min(wait_s * 2, RECONNECT_CAP_S)

    async def _connection(self) -> None:
        will = aiomqtt.Will(presence_topic(self.person_id), b"offline", qos=1, retain=True)
        client_id = f"{self.person_id}:{self.device}"
        async with self.address.client(client_id, clean_session=False, will=will) as client:
            granted = await client.subscribe(tasks_topic(self.person_id), qos=1)
            if any(getattr(code, "value", code) == _NO_RIGHT for code in granted):
                raise GridwatchError("dispatch.mqtt_no_right", person=self.person_id)
            await client.publish(presence_topic(self.person_id), b"online", qos=1, retain=True)
            self.counts.connects += 1
            self._sending.clear()  # whatever is unsettled is sent again at once
            self.connected.set()
            self.on_connection(True)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send(client), name="device-send")
                    group.create_task(self._hear(client), name="device-hear")
            except asyncio.CancelledError:
                with contextlib.suppress(aiomqtt.MqttError):
                    await client.publish(presence_topic(self.person_id), b"offline", qos=1, retain=True, timeout=1)
                raise

    # ---- hearing

    async def _hear(self, client: aiomqtt.Client) -> None:
        messages = client.messages
        async for first in messages:
            batch = [first]
            while len(messages):
                batch.append(await anext(messages))
            await self._take(client, batch)

    async def _take(self, client: aiomqtt.Client, batch: list[aiomqtt.Message]) -> None:
        """Put a batch into memory and file, then confirm it, then show what is new."""
        shown: list[TaskMessage] = []
        settled: list[tuple[Answer, TaskMessage]] = []
        told: list[TaskMessage] = []
        for raw in batch:
            self.counts.messages += 1
            try:
                message = TaskMessage.model_validate_json(bytes(raw.payload))
            except ValidationError as error:
                self.counts.unreadable += 1
                log.warning("message not understood", extra={"person": self.person_id, "reason": str(error)[:300]})
                continue
            told.append(message)
            if self._is_news(message):
                shown.append(message)
            settled += self._settle(message)
        if shown or settled:
            self._save()
        for message in told:
            if message.outbox_id is not None and message.task_id is not None:
                await self._confirm(client, message)
        for message in shown:
            self.counts.shown += 1
            self.on_task(message)
        for answer, message in settled:
            self.on_settled(answer, message)
        if settled:
            self._poke.set()

    def _is_news(self, message: TaskMessage) -> bool:
        if message.task_id is None or message.task_revision is None or message.task_state is None:
            return False
        known = self.tasks.get(message.task_id)
        if known is not None and (known.task_revision or 0) >= message.task_revision:
            self.counts.repeated += 1
            return False
        self.tasks[message.task_id] = message
        if len(self.tasks) > KEPT_TASKS:
            over = [task_id for task_id, task in self.tasks.items() if task.task_state in TASK.final]
            for task_id in over[: len(self.tasks) - KEPT_TASKS]:
                del self.tasks[task_id]
        return True

    def _settle(self, message: TaskMessage) -> list[tuple[Answer, TaskMessage]]:
        """Drop the answer that the message names; with a refused one also the steps that were built upon it."""
        steps = self._memory.steps
        place = next((i for i, step in enumerate(steps) if step.answer.answer_id == message.answer_id), None)
        if place is None:
            return []
        gone = [steps.pop(place)]
        self._sending.pop(gone[0].answer.answer_id, None)
        followers = [step for step in steps if step.answer.task_id == gone[0].answer.task_id]
        if not message.answer_applied:
            gone += followers
            self._memory.steps = [step for step in steps if step not in followers]
        elif followers:
            first = followers[0]
            now_at = {"task_revision": message.task_revision, "outbox_id": message.outbox_id}
            first.answer, first.follows = first.answer.model_copy(update=now_at), None
        return [(step.answer, message) for step in gone]

    async def _confirm(self, client: aiomqtt.Client, message: TaskMessage) -> None:
        assert message.task_id is not None
        receipt = Answer(
            answer_id=new_id(),
            person_id=self.person_id,
            outbox_id=message.outbox_id,
            task_id=message.task_id,
            task_revision=message.task_revision or 1,
            step="received",
            at=self.clock.now(),
        )
        await self._publish(client, receipt)

    # ---- sending

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            self._poke.clear()
            now_s = self.clock.monotonic_s()
            for answer in self._ready():
                sending = self._sending.setdefault(answer.answer_id, _Sending())
                if sending.due_s > now_s:
                    continue
                sending.times += 1
                sending.due_s = now_s + min(REPEAT_CAP_S, self.repeat_first_s * 2.0 ** (sending.times - 1))
                await self._publish(client, answer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self.repeat_first_s)):
                    await self._poke.wait()

    def _ready(self) -> list[Answer]:
        return [step.answer for step in self._memory.steps if step.follows is None]

    async def _publish(self, client: aiomqtt.Client, answer: Answer) -> None:
        body = answer.model_dump_json(exclude_none=True)
        await client.publish(answers_topic(self.person_id), body, qos=1)

    def _save(self) -> None:
        if self.state_path is None:
            return
        self.state_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=self.state_path.parent, prefix=f".{self.state_path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._memory.model_dump_json(exclude_none=True))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.state_path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _load(path: Path | None) -> _Memory:
    """What the device knew; a damaged file is set aside, since the server tells open tasks again."""
    if path is None or not path.exists():
        return _Memory()
    try:
        return _Memory.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        log.warning("device file damaged, set aside", extra={"aside": str(aside), "reason": str(error)[:300]})
        return _Memory()
