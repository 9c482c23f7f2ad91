"""The embedded MQTT 3.1.1 broker: amqtt with this project's accounts and topic rights, and its sharp edges covered.

Accounts come from the password file of `accounts.py`, rights from the table of `topics.py`; nobody is anonymous and
there are no `$SYS` topics. The broker is a courier and forgets everything when it ends: outbox rows stay open in the
database until devices confirm them, and devices keep their answers until they see what became of them.

Where amqtt 0.12 is changed, and why (each has a test):
- the password is checked before the CONNECT touches a session: it could otherwise evict or delete another's;
- a last will is held against the topic rights like any message, and a client id belongs to its account;
- a client that connects while its old connection still looks alive: the old one ends without a will and without marking
  the shared session as offline;
- retained messages go to those who subscribed to them, not to every client that reconnects;
- the subscription table may change while a message is handed round;
- a client that is silent beyond its keep-alive is dropped and its will told;
- packets, offline queues and the wait for the first packet have limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WriterAdapter
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, BrokerError, MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from command.dispatch import topics
from command.dispatch.accounts import PasswordFile
from command.dispatch.topics import may, may_use_client_id
from command.dispatch.wire import MAX_BODY_BYTES
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 4 * MAX_BODY_BYTES
MAX_CONNECTIONS = 4096
QUEUED_OFFLINE = 1000  # messages an absent client's session keeps; the oldest go first, the outbox has them all
FIRST_PACKET_WAIT_S = 10.0

_ACTIONS: dict[Action, topics.Action] = {
    Action.PUBLISH: "publish",
    Action.SUBSCRIBE: "subscribe",
    Action.RECEIVE: "receive",
}


class AccountAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is untyped
    """Lets in who knows the account's password, uses a client id of the account, and wills nothing it may not say."""

    @dataclass
    class Config:
        """Where the password file is."""

        passwd_path: str = ""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._passwords = PasswordFile(Path(context.config.passwd_path))

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the session may be."""
        user = session.username
        if user is None or not self._passwords.verify(user, session.password):
            log.warning("mqtt login refused", extra={"user": user, "address": session.remote_address})
            return False
        if not may_use_client_id(user, session.client_id or ""):
            log.warning("mqtt client id is not the account's", extra={"user": user, "client_id": session.client_id})
            return False
        if session.will_flag and not may(user, "publish", session.will_topic or ""):
            log.warning("mqtt last will is not allowed", extra={"user": user, "topic": session.will_topic})
            return False
        return True


class TopicRights(BaseTopicPlugin):  # type: ignore[misc]  # amqtt is untyped
    """The table of `topics.py` for amqtt."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Whether the session's account may do `action` on `topic`."""
        if session is None or session.username is None or topic is None or action is None:
            return False
        return may(session.username, _ACTIONS[action], topic)


class EmbeddedBroker:
    """One broker in this event loop: `port = await start()`, `await stop()`; the same object can start again."""

    def __init__(self, host: str, port: int, passwd_path: Path) -> None:
        self.host = host
        self.port = port  # 0: any free one, known after `start`
        self._passwd_path = passwd_path
        self._broker: _TownBroker | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            GridwatchError: `dispatch.broker_port` when the address cannot be bound.
        """
        name = "command.dispatch.broker"
        config = BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"{self.host}:{self.port}", max_connections=MAX_CONNECTIONS)},
            plugins={
                f"{name}.AccountAuth": {"passwd_path": str(self._passwd_path)},
                f"{name}.TopicRights": {},
            },
        )
        broker = _TownBroker(config, loop=asyncio.get_running_loop())
        try:
            await broker.start()
        except (BrokerError, AMQTTError) as error:
            raise GridwatchError("dispatch.broker_port", host=self.host, port=self.port, why=error) from error
        self._broker = broker
        self.port = broker.bound_port
        return self.port

    async def stop(self) -> None:
        """Close every connection and forget every session. Idempotent."""
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.shutdown()


async def run_broker(host: str, port: int, passwd_path: Path, ready: asyncio.Event | None = None) -> None:
    """Serve until cancelled; the body of the broker's own process, or of a task.

    Raises:
        GridwatchError: `dispatch.broker_port`.
    """
    broker = EmbeddedBroker(host, port, passwd_path)
    bound = await broker.start()
    log.info("mqtt broker listens", extra={"host": host, "port": bound})
    if ready is not None:
        ready.set()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await broker.stop()


class _Subscriptions(dict[str, list[tuple[Session, int]]]):
    """amqtt walks this table across awaits while clients come and go: every walk sees a copy."""

    def matching(self, topic: str, matches: Callable[[str, str], bool]) -> list[tuple[Session, int]]:
        """Who is subscribed to `topic`: one look-up and the few filters with wildcards, not a walk over everybody."""
        found = list(self.get(topic, ()))
        for topic_filter, subscribers in super().items():
            if ("+" in topic_filter or "#" in topic_filter) and matches(topic, topic_filter):
                found += subscribers
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().keys()))

    def items(self) -> Any:
        return [(topic, list(subscribers)) for topic, subscribers in super().items()]


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped
    """Refuses a packet part that no message of ours can have, before memory is given to it."""

    async def read(self, n: int = -1) -> bytes:
        if n > MAX_PACKET_BYTES:  # not an MQTTError: amqtt would go on reading in the middle of the packet
            raise ConnectionAbortedError(f"packet part of {n} bytes, at most {MAX_PACKET_BYTES} are taken")
        return bytes(await super().read(n))


class _Handler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt is untyped
    """Ends a connection that has been silent for longer than the client promised, so that its last will is told."""

    _closing: asyncio.Task[None] | None = None

    def handle_read_timeout(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self.handle_connection_closed())


class _TownBroker(Broker):  # type: ignore[misc]  # amqtt is untyped
    def __init__(self, config: BrokerConfig, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, loop=loop)
        self._subscriptions = _Subscriptions()
        self._replaced: weakref.WeakSet[BrokerProtocolHandler] = weakref.WeakSet()
        self._sending: set[asyncio.Future[Any]] = set()

    @property
    def bound_port(self) -> int:
        return int(self._servers["default"].instance.sockets[0].getsockname()[1])

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        try:
            await self._client_connected(listener_name, _BoundedReader(reader), StreamWriterAdapter(writer))
        except Exception:
            log.warning("mqtt connection ended by an error", exc_info=True)
            writer.close()

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        """Read CONNECT, check the account, and only then look for the client's session."""
        try:
            async with asyncio.timeout(FIRST_PACKET_WAIT_S):
                handler, session = await _Handler.init_from_connect(reader, writer, self.plugins_manager)
        except Exception as error:
            await writer.close()
            raise MQTTError(f"no usable CONNECT from {remote_address}:{remote_port}: {error}") from error
        if not await self._authenticate(session, self.listeners_config["default"]):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            await writer.close()
            raise MQTTError(f"{remote_address}:{remote_port} is not authorised")
        session.parent = 0
        session.keep_alive += session.keep_alive // 2  # the grace that 3.1.1 gives (MQTT-3.1.2-24)
        known, old_handler = self._sessions.get(session.client_id, (None, None))
        if known is not None and old_handler is not None and known.transitions.state == "connected":
            self._replaced.add(old_handler)
            await old_handler.handle_connection_closed()
            await self._stop_handler(old_handler)
            known.transitions.disconnect()
        if session.clean_session:
            await self._delete_session(session.client_id)
        elif known is not None:
            for name in ("will_flag", "will_message", "will_topic", "will_qos", "will_retain", "keep_alive"):
                setattr(known, name, getattr(session, name))
            known.username, known.password, known.clean_session = session.username, session.password, False
            known.parent = 1
            session = known
        return handler, session

    async def _handle_disconnect(
        self, client_session: Session, handler: BrokerProtocolHandler, disconnect_waiter: asyncio.Future[Any]
    ) -> None:
        if handler in self._replaced:
            await self._stop_handler(handler)
            return
        await super()._handle_disconnect(client_session, handler, disconnect_waiter)
        # a session that was asked to be clean is gone with its connection
        if client_session.clean_session and self._sessions.get(client_session.client_id, (None, None))[1] is handler:
            await self._delete_session(client_session.client_id)

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        return session.username is not None and may(session.username, _ACTIONS[action], topic)

    async def _run_broadcast(self, running_tasks: deque[asyncio.Task[Any]]) -> None:
        """Hand one message round; as amqtt does it, at a third of the work (162 people, one of them addressed)."""
        broadcast = await self._broadcast_queue.get()
        topic = broadcast["topic"]
        for target, granted_qos in self._subscriptions.matching(topic, self._matches):
            qos = broadcast.get("qos", granted_qos)
            if not await self._topic_filtering(target, topic, Action.RECEIVE):
                log.warning("mqtt message not delivered", extra={"user": target.username, "topic": topic})
            elif target.transitions.state == "connected":
                if (handler := self._get_handler(target)) is not None:
                    running_tasks.append(
                        asyncio.ensure_future(handler.mqtt_publish(topic, broadcast["data"], qos, retain=False))
                    )
            elif not target.clean_session and qos:
                await self._retain_broadcast_message(broadcast, qos, target)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send what is retained to a real subscriber, without waiting for its PUBACK before serving it further."""
        topic_filter, qos = subscription
        if all(who.client_id != session.client_id for who, _ in self._subscriptions.get(topic_filter, ())):
            return
        handler = self._get_handler(session)
        for topic, retained in list(self._retained_messages.items()):
            if handler is not None and self._matches(topic, topic_filter):
                sending = asyncio.ensure_future(
                    handler.mqtt_publish(topic, retained.data, min(qos, retained.qos or 0), retain=True)
                )
                self._sending.add(sending)
                sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Future[Any]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and sending.exception() is not None:
            log.debug("a retained message was not delivered", exc_info=sending.exception())

    async def _retain_broadcast_message(self, broadcast: dict[str, Any], qos: int, target_session: Session) -> None:
        """Queue for an absent client, within the limit."""
        queue: asyncio.Queue[RetainedApplicationMessage] = target_session.retained_messages
        while queue.qsize() >= QUEUED_OFFLINE:
            with contextlib.suppress(asyncio.QueueEmpty):
                queue.get_nowait()
        await super()._retain_broadcast_message(broadcast, qos, target_session)
