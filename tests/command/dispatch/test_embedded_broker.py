"""The embedded broker: who gets in, who hears what, and amqtt's sharp edges, each covered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiomqtt
import pytest

from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress, refused
from command.dispatch.broker import MAX_PACKET_BYTES, QUEUED_OFFLINE, EmbeddedBroker
from command.dispatch.topics import SERVICE
from ingest.errors import GridwatchError
from tests.command.dispatch.dispatch_town import until
from tests.faults.proxy import Proxy


class Heard:
    """A connected client that keeps (topic, payload, retain) of what it hears."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.messages: list[tuple[str, bytes, bool]] = []

    async def listen(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self.client.messages:
                self.messages.append((str(message.topic), bytes(message.payload), message.retain))


class Place:
    """A broker and its accounts."""

    def __init__(self, broker: EmbeddedBroker, accounts: Accounts) -> None:
        self.broker = broker
        self.accounts = accounts

    @contextlib.asynccontextmanager
    async def client(
        self, user: str, *topics: str, name: str = "", password: str | None = None, clean: bool = True, will: str = ""
    ) -> AsyncIterator[Heard]:
        secret = self.accounts.password(user) if password is None else password
        address = MqttAddress("127.0.0.1", self.broker.port, user, secret)
        last = aiomqtt.Will(will, b"offline", qos=1, retain=True) if will else None
        async with address.client(name or f"{user}:test", clean_session=clean, will=last) as client:
            heard = Heard(client)
            task = asyncio.create_task(heard.listen())
            try:
                for topic in topics:
                    granted = await client.subscribe(topic, qos=1)
                    if any(getattr(code, "value", code) == 128 for code in granted):
                        raise PermissionError(topic)
                yield heard
            finally:
                task.cancel()


@pytest.fixture
async def place(accounts: Accounts) -> AsyncIterator[Place]:
    broker = EmbeddedBroker("127.0.0.1", 0, accounts.passwd_path)
    await broker.start()
    yield Place(broker, accounts)
    await broker.stop()


async def test_wrong_password_and_nobody_are_refused(place: Place) -> None:
    for user, password in (("p-1", "wrong"), ("p-9", "x"), ("p-1", "")):
        with pytest.raises(aiomqtt.MqttError) as caught:
            async with place.client(user, password=password):
                pass
        assert refused(caught.value)
    with pytest.raises(aiomqtt.MqttError) as caught:
        async with aiomqtt.Client("127.0.0.1", place.broker.port, timeout=5):
            pass
    assert refused(caught.value)


async def test_an_intruder_cannot_evict_or_forget_a_session(place: Place) -> None:
    async with (
        place.client(SERVICE) as service,
        place.client("p-1", "gridwatch/tasks/p-1", name="p-1:phone", clean=False) as phone,
    ):
        for user, password, clean in (("p-1", "wrong", True), ("p-1", "wrong", False), ("p-2", None, True)):
            with pytest.raises(aiomqtt.MqttError):
                async with place.client(user, name="p-1:phone", password=password, clean=clean):
                    pass
        await service.client.publish("gridwatch/tasks/p-1", b"still there", qos=1)
        await until(lambda: len(phone.messages) == 1, "the phone still hears")


async def test_topic_rights(place: Place) -> None:
    async with place.client(SERVICE, "gridwatch/#") as service, place.client("p-1") as person:
        for topic in ("gridwatch/tasks/p-2", "gridwatch/tasks/+", "#", "$SYS/#", "gridwatch/presence/p-2"):
            with pytest.raises(PermissionError):
                async with place.client("p-1", topic, name="p-1:other"):
                    pass
        for topic in ("gridwatch/answers/p-2", "gridwatch/tasks/p-1", "elsewhere"):
            await person.client.publish(topic, b"forged", qos=1)
        await person.client.publish("gridwatch/answers/p-1", b"own", qos=1)
        await until(lambda: len(service.messages) > 0, "the service hears the answer")
        assert service.messages == [("gridwatch/answers/p-1", b"own", False)]


async def test_a_last_will_has_no_more_rights_than_its_owner(place: Place) -> None:
    with pytest.raises(aiomqtt.MqttError) as caught:
        async with place.client("p-1", will="gridwatch/answers/p-2"):
            pass
    assert refused(caught.value)


async def test_retained_presence_reaches_the_service_and_nobody_else(place: Place) -> None:
    async with place.client(SERVICE, "gridwatch/presence/+", clean=False) as watching:
        async with place.client("p-1", "gridwatch/tasks/p-1", clean=False) as first:
            await first.client.publish("gridwatch/presence/p-1", b"online", qos=1, retain=True)
            await until(lambda: len(watching.messages) == 1, "presence is heard")
        async with (
            place.client("p-1", "gridwatch/tasks/p-1", clean=False) as again,
            place.client("p-2", "gridwatch/tasks/p-2") as other,
            place.client(SERVICE, "gridwatch/presence/+", name=f"{SERVICE}:late") as late,
        ):
            await until(lambda: ("gridwatch/presence/p-1", b"online", True) in late.messages, "retained is told")
            await late.client.publish("gridwatch/tasks/p-1", b"end", qos=1)
            await late.client.publish("gridwatch/tasks/p-2", b"end", qos=1)
            await until(lambda: bool(again.messages and other.messages), "both hear their own")
            assert [topic for topic, _, _ in again.messages + other.messages] == [
                "gridwatch/tasks/p-1",
                "gridwatch/tasks/p-2",
            ]


async def test_take_over_keeps_the_session_live_and_sends_no_will(place: Place) -> None:
    presence = "gridwatch/presence/p-1"
    async with (
        place.client(SERVICE, "gridwatch/presence/+") as service,
        place.client("p-1", "gridwatch/tasks/p-1", clean=False, will=presence),
        place.client("p-1", "gridwatch/tasks/p-1", clean=False, will=presence) as second,
    ):
        for number in range(5):
            await service.client.publish("gridwatch/tasks/p-1", str(number).encode(), qos=1)
        await until(lambda: len(second.messages) == 5, "the new connection hears everything, live")
        assert not service.messages


async def test_a_lost_connection_sends_its_will(place: Place) -> None:
    async with place.client(SERVICE, "gridwatch/presence/+") as service:
        address = MqttAddress("127.0.0.1", place.broker.port, "p-1", place.accounts.password("p-1"))
        will = aiomqtt.Will("gridwatch/presence/p-1", b"offline", qos=1, retain=True)
        client = address.client("p-1:phone", clean_session=False, will=will)
        await client.__aenter__()
        raw = client._client.socket()
        assert raw is not None
        raw.shutdown(2)
        await until(lambda: service.messages == [("gridwatch/presence/p-1", b"offline", False)], "the will is told")
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def test_a_silent_client_is_dropped_and_its_will_told(
    place: Place, make_proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command.dispatch.address.KEEPALIVE_S", 1)
    proxy = make_proxy(("127.0.0.1", place.broker.port))
    async with place.client(SERVICE, "gridwatch/presence/+") as service:
        address = MqttAddress("127.0.0.1", proxy.port, "p-1", place.accounts.password("p-1"))
        will = aiomqtt.Will("gridwatch/presence/p-1", b"offline", qos=1, retain=True)
        client = address.client("p-1:phone", clean_session=False, will=will)
        await client.__aenter__()
        proxy.deaf = True
        await until(lambda: bool(service.messages), "the will of a client in a tunnel", 5)
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def test_an_absent_clients_queue_is_bounded_and_in_order(place: Place) -> None:
    async with place.client("p-1", "gridwatch/tasks/p-1", clean=False):
        pass
    over = 20
    async with place.client(SERVICE, "gridwatch/answers/end") as service:
        for start in range(0, QUEUED_OFFLINE + over, 60):
            many = range(start, min(start + 60, QUEUED_OFFLINE + over))
            await asyncio.gather(*(service.client.publish("gridwatch/tasks/p-1", str(n).encode(), qos=1) for n in many))
        # amqtt acknowledges before it hands round, and forgets what a leaving publisher had acknowledged
        await service.client.publish("gridwatch/answers/end", b"", qos=1)
        await until(lambda: bool(service.messages), "the broker has handed everything round")
    async with place.client("p-1", clean=False) as back:
        await until(lambda: len(back.messages) == QUEUED_OFFLINE, "what was kept arrives")
        assert [int(payload) for _, payload, _ in back.messages] == list(range(over, QUEUED_OFFLINE + over))


async def test_garbage_and_giants_end_their_connection_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command.dispatch.broker.FIRST_PACKET_WAIT_S", 0.3)
    for first_bytes in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\x7f" + b"x" * 100, b"\xff" * 50, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.broker.port)
        writer.write(first_bytes)
        if not first_bytes:
            writer.write_eof()
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
    async with place.client(SERVICE, "gridwatch/answers/+") as service:
        with pytest.raises(aiomqtt.MqttError):
            async with place.client("p-2") as giant:
                await giant.client.publish("gridwatch/answers/p-2", b"x" * (MAX_PACKET_BYTES + 1), qos=1, timeout=1)
        async with place.client("p-1") as person:
            await person.client.publish("gridwatch/answers/p-1", b"alive", qos=1)
            await until(lambda: len(service.messages) == 1, "the broker goes on")


async def test_a_taken_port_is_said(place: Place) -> None:
    with pytest.raises(GridwatchError, match=r"dispatch\.broker_port"):
        await EmbeddedBroker("127.0.0.1", place.broker.port, place.accounts.passwd_path).start()


async def test_many_clients_at_once_all_get_in(place: Place) -> None:
    async with place.client(SERVICE, "gridwatch/presence/+"):

        async def one(number: int) -> bool:
            async with place.client("p-1", "gridwatch/tasks/p-1", name=f"p-1:{number}") as person:
                await person.client.publish("gridwatch/presence/p-1", b"online", qos=1, retain=True)
                return True

        assert all(await asyncio.gather(*(one(number) for number in range(40))))
