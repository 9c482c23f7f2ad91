"""Where the MQTT broker is and who is asking: enough to open a connection, with a password that does not show."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiomqtt

from ingest.errors import GridwatchError
from ingest.secret import redact_url

KEEPALIVE_S = 20


@dataclass(frozen=True)
class MqttAddress:
    """A broker and an account on it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def of_url(cls, url: str, user: str, password: str) -> MqttAddress:
        """From `mqtt://host[:port]`; a user part in the URL wins over `user` and `password`.

        Raises:
            GridwatchError: `dispatch.mqtt_url`.
        """
        parts = urlsplit(url)
        port: int | None = None
        with contextlib.suppress(ValueError):
            port = parts.port or 1883
        if parts.scheme not in ("mqtt", "tcp") or not parts.hostname or port is None:
            raise GridwatchError("dispatch.mqtt_url", url=redact_url(url))
        return cls(parts.hostname, port, parts.username or user, parts.password or password)

    def client(
        self, client_id: str, *, clean_session: bool, will: aiomqtt.Will | None = None, inflight: int = 100
    ) -> aiomqtt.Client:
        """A client that is not connected yet; `async with` connects it, once."""
        client = aiomqtt.Client(
            self.host,
            self.port,
            username=self.user,
            password=self.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=clean_session,
            will=will,
            keepalive=KEEPALIVE_S,
            timeout=10,
            max_inflight_messages=inflight,
            max_queued_incoming_messages=10_000,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # Nagle and delayed ACKs cost 40 ms a step
        )
        client.pending_calls_threshold = 1000  # a burst is no reason for a warning a message
        client._disconnected.add_done_callback(_seen)  # else asyncio complains when nobody was waiting for messages
        return client


def _seen(ended: asyncio.Future[None]) -> None:
    if not ended.cancelled():
        ended.exception()


def refused(error: aiomqtt.MqttError) -> bool:
    """Whether the broker answered and said no (wrong account), so that trying again soon is no use."""
    if not isinstance(error, aiomqtt.MqttCodeError) or error.rc is None:
        return False
    code = error.rc if isinstance(error.rc, int) else error.rc.value
    return code in (4, 5, 134, 135)  # CONNACK of 3.1.1, and the same as reason codes of MQTT 5
