"""A stoppable, deaf proxy between a client and a server: what a bad network does, on demand. For tests of any protocol.

`stop` refuses new connections and cuts the old ones; `start` brings it back at the same address. `deaf` swallows what
both sides say while everything stays connected. `cut_after_commits` lets the server commit and cuts its answer off.
"""

from __future__ import annotations

import selectors
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

Address = tuple[str, int] | str
Filter = Callable[[bytes], bytes | None]  # None: cut this connection now


class Proxy:
    """Forwards connections of `listen` (host and port, or a socket path) to `target`. All of it in one thread."""

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self.target = target
        self.address: Address = listen
        self.accepted = 0
        self.deaf = False
        self.from_client: Filter | None = None
        self.from_server: Filter | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._server_side: set[socket.socket] = set()
        self._links: dict[socket.socket, socket.socket] = {}
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()

    @property
    def port(self) -> int:
        assert isinstance(self.address, tuple)
        return self.address[1]

    def start(self) -> None:
        """Listen and forward; the same address as before when it was stopped."""
        if self._thread is not None:
            return
        unix = isinstance(self.address, str)
        self._listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        if unix:
            Path(str(self.address)).unlink(missing_ok=True)
        else:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self.address)
        self._listener.listen(128)
        if not unix:
            self.address = self._listener.getsockname()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection and refuse new ones. Idempotent."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake_write.send(b"!")
        self._thread.join()
        self._thread = None
        if isinstance(self.address, str):
            Path(self.address).unlink(missing_ok=True)

    def cut(self) -> None:
        """Cut every connection but go on listening."""
        self._wake_write.send(b"x")

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._wake_read.close()
        self._wake_write.close()

    def _run(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select():
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    if ready is self._wake_read:
                        self._wake_read.recv(1)
                        self._cut_all(selector)
                    elif ready is self._listener:
                        self._accept(selector)
                    elif ready in self._links:
                        self._forward(selector, ready)
            self._cut_all(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET)
        try:
            server.connect(self.target)
        except OSError:
            client.close()
            server.close()
            return
        self.accepted += 1
        client.settimeout(10)
        server.settimeout(10)
        self._links[client], self._links[server] = server, client
        self._server_side.add(server)
        selector.register(client, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)

    def _forward(self, selector: selectors.BaseSelector, source: socket.socket) -> None:
        try:
            data: bytes | None = source.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._cut(selector, source)
            return
        if self.deaf:
            return
        changed = self.from_server if source in self._server_side else self.from_client
        if changed is not None:
            data = changed(data)
        if data is None:
            self._cut(selector, source)
            return
        try:
            self._links[source].sendall(data)
        except OSError:
            self._cut(selector, source)

    def _cut(self, selector: selectors.BaseSelector, one: socket.socket) -> None:
        for end in (one, self._links.get(one)):
            if end is not None and self._links.pop(end, None) is not None:
                selector.unregister(end)
                self._server_side.discard(end)
                end.close()

    def _cut_all(self, selector: selectors.BaseSelector) -> None:
        for end in list(self._links):
            self._cut(selector, end)


@pytest.fixture
def make_proxy() -> Iterator[Callable[..., Proxy]]:
    """Makes started proxies: `make_proxy(("127.0.0.1", port))` or `make_proxy("/socket", listen="/other")`."""
    made: list[Proxy] = []

    def make(target: Address, listen: Address = ("127.0.0.1", 0)) -> Proxy:
        made.append(Proxy(target, listen))
        made[-1].start()
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


class PostgresProxy(Proxy):
    """A proxy before a PostgreSQL server on a unix socket; `conninfo` goes through it."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        there = psycopg.conninfo.conninfo_to_dict(conninfo)
        super().__init__(f"{there['host']}/.s.PGSQL.5432", f"{folder}/.s.PGSQL.5432")
        self.conninfo = psycopg.conninfo.make_conninfo(conninfo, host=str(folder))

    def cut_after_commits(self, number: int) -> None:
        """For the next `number` COMMITs: the server commits, the client is cut before it hears of it."""
        left = [number]

        def watch(data: bytes) -> bytes:
            if left[0] > 0 and b"COMMIT\x00" in data:
                left[0] -= 1
                self.from_server = swallow
            return data

        def swallow(data: bytes) -> None:
            self.from_server = None

        self.from_client = watch


@pytest.fixture
def postgres_proxy(postgres: str, short_tmp: Path) -> Iterator[PostgresProxy]:
    """A started proxy before the test's own database."""
    proxy = PostgresProxy(postgres, Path(tempfile.mkdtemp(prefix="px-", dir=short_tmp)))
    proxy.start()
    yield proxy
    proxy.close()
