"""Answers from devices: taken from MQTT to disk first, then applied, and the device told what became of each.

Two halves in one object. The intake hears `gridwatch/answers/+` and puts each body into the answers spool unchanged.
The drain reads the spool in order, applies, commits, replies, and only then removes. Database away: answers wait on
disk. Killed between commit and removal: applied again, which changes nothing. A broker's PUBACK goes to the device
from the broker, so it never proves that an answer is kept: a device repeats each step until it has seen a message
that names its `answer_id`. What cannot be an answer at all goes to `dead_letters` with the reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiomqtt
import psycopg
from pydantic import BaseModel, ValidationError

from command.dispatch.address import MqttAddress
from command.dispatch.apply import apply_answer, apply_receipts
from command.dispatch.topics import SERVICE, answers_topic, person_of, tasks_topic
from command.dispatch.wire import MAX_BODY_BYTES, Answer, TaskMessage
from ingest.clock import Clock
from ingest.errors import GridwatchError
from ingest.spool import Spool, SpoolRow

log = logging.getLogger(__name__)

KIND = "answer"
BATCH = 200
POLL_S = 0.5
RECONNECT_S = 1.0
WAITING_REPLIES = 1000


@dataclass
class AnswerCounts:
    """What became of answers since the start; for the metrics."""

    taken: int = 0
    receipts: int = 0
    applied: int = 0
    not_applied: int = 0
    refused: int = 0  # no answer at all: too large, not JSON, another person's name in it


class Answers:
    """Intake and drain: `await run()` until cancelled. The one writer and the one reader of its spool."""

    def __init__(self, conninfo: str, broker: MqttAddress, spool: Spool, clock: Clock) -> None:
        self._conninfo = conninfo
        self._address = broker
        self._spool = spool
        self._clock = clock
        self._put = asyncio.Event()
        self._replies: asyncio.Queue[TaskMessage] = asyncio.Queue(WAITING_REPLIES)
        self.counts = AnswerCounts()
        self.connected = asyncio.Event()  # the broker is reached and answers are heard

    async def run(self) -> None:
        """Take and apply for ever; connections that break are made again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intake(), name="answers-intake")
            group.create_task(self._drain(), name="answers-drain")

    # ---- MQTT to disk

    async def _intake(self) -> None:
        while True:
            try:
                async with self._address.client(f"{SERVICE}:answers", clean_session=False) as client:
                    await client.subscribe(answers_topic("+"), qos=1)
                    self.connected.set()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._hear(client), name="answers-hear")
                        group.create_task(self._send_replies(client), name="answers-reply")
            except* (aiomqtt.MqttError, OSError) as errors:
                log.warning("answers wait for the broker", extra={"reason": str(errors.exceptions[0])})
            finally:
                self.connected.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _hear(self, client: aiomqtt.Client) -> None:
        messages = client.messages
        async for message in messages:
            batch = [message]
            while len(messages) and len(batch) < BATCH:  # a burst shares one fsync
                batch.append(await anext(messages))
            bodies = [body for one in batch if (body := self._body_of(one)) is not None]
            await self._keep(bodies)

    def _body_of(self, message: aiomqtt.Message) -> str | None:
        """The message as a spool row: who said it (by topic, which the broker guards) and what, unchanged."""
        payload = bytes(message.payload)
        person_id = person_of(str(message.topic))
        if len(payload) > MAX_BODY_BYTES:
            self.counts.refused += 1
            log.warning("answer refused: too large", extra={"person": person_id, "bytes": len(payload)})
            return None
        text = payload.decode("utf-8", errors="replace")
        return json.dumps({"person_id": person_id, "heard_at": self._clock.now().isoformat(), "body": text})

    async def _keep(self, bodies: Sequence[str]) -> None:
        while True:
            try:
                await asyncio.to_thread(self._spool.put_many, [(KIND, body) for body in bodies])
                break
            except (
                GridwatchError,
                sqlite3.Error,
            ) as error:  # disk full: hold on to them, devices repeat what comes meanwhile
                log.error("answers cannot be kept on disk", extra={"reason": str(error)})
                await asyncio.sleep(RECONNECT_S)
        self.counts.taken += len(bodies)
        self._put.set()

    async def _send_replies(self, client: aiomqtt.Client) -> None:
        while True:
            reply = await self._replies.get()
            body = reply.model_dump_json(exclude_none=True)
            await client.publish(tasks_topic(reply.person_id), body, qos=1)

    # ---- disk to database

    async def _drain(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as conn:
                    while True:
                        self._put.clear()
                        rows = await asyncio.to_thread(self._spool.read, BATCH)
                        if rows:
                            await self._apply(conn, rows)
                            await asyncio.to_thread(self._spool.remove_through, rows[-1].seq)
                        else:
                            await self._wait()
            except (psycopg.Error, GridwatchError, sqlite3.Error, OSError) as error:
                log.warning("answers wait on disk", extra={"reason": str(error).strip()})
                await asyncio.sleep(RECONNECT_S)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._put.wait()
        except TimeoutError:
            return

    async def _apply(self, conn: psycopg.AsyncConnection[Any], rows: Sequence[SpoolRow]) -> None:
        """Apply spooled answers: receipts together, then each step in its order, each in its own transaction."""
        answers: list[tuple[SpoolRow, Answer]] = []
        for row in rows:
            answer = _parse(row.body)
            if isinstance(answer, str):
                self.counts.refused += 1
                await self._bury(conn, row, answer)
                if (refusal := _refusal(row.body)) is not None:
                    self._reply(refusal)
            else:
                answers.append((row, answer))
        receipts = [answer for _, answer in answers if answer.step == "received"]
        await apply_receipts(conn, receipts)
        self.counts.receipts += len(receipts)
        for row, answer in answers:
            if answer.step == "received":
                continue
            try:
                reply = await apply_answer(conn, answer)
            except (psycopg.DataError, psycopg.IntegrityError) as error:  # this row alone can never be stored
                self.counts.refused += 1
                await self._bury(conn, row, f"answer.unstorable: {error}")
                continue
            if reply.answer_applied:
                self.counts.applied += 1
            else:
                self.counts.not_applied += 1
                log.info(
                    "answer not applied",
                    extra={"task": str(answer.task_id), "step": answer.step, "why": reply.answer_why},
                )
            if reply.answer_why == "answer.unknown_task":
                await self._bury(conn, row, "answer.unknown_task")
            self._reply(reply)

    def _reply(self, reply: TaskMessage) -> None:
        if self._replies.full():  # the device asks again by repeating its answer
            self._replies.get_nowait()
        self._replies.put_nowait(reply)

    async def _bury(self, conn: psycopg.AsyncConnection[Any], row: SpoolRow, reason: str) -> None:
        log.warning("answer set aside", extra={"seq": row.seq, "reason": reason[:200]})
        spool_id = await asyncio.to_thread(lambda: self._spool.id)
        await conn.execute(
            """
            INSERT INTO dead_letters (spool, seq, kind, body, reason) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (spool, seq) DO NOTHING
            """,
            (spool_id, row.seq, row.kind, row.body.replace("\x00", ""), reason[:2000]),
        )


def _parse(spooled: str) -> Answer | str:
    """The answer in a spool row, or why it is none."""
    said = json.loads(spooled)
    try:
        answer = Answer.model_validate_json(said["body"])
    except ValidationError as error:
        return f"answer.invalid: {error.errors(include_url=False, include_input=False)}"
    if answer.person_id is not None and answer.person_id != said["person_id"]:
        return "answer.other_person"
    if answer.note is not None and "\x00" in answer.note:
        return "answer.invalid: note holds a zero character"  # PostgreSQL cannot keep it
    return answer.model_copy(update={"person_id": said["person_id"]})


def _refusal(spooled: str) -> TaskMessage | None:
    """A reply that ends the device's repeating, when the body at least says which answer it was."""
    said = json.loads(spooled)
    try:
        named = _Named.model_validate_json(said["body"])
    except ValidationError:
        return None
    return TaskMessage(
        person_id=said["person_id"], answer_id=named.answer_id, answer_applied=False, answer_why="answer.invalid"
    )


class _Named(BaseModel):
    """The least that a reply needs."""

    answer_id: UUID
