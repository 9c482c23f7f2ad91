"""Packets across the process border, only while somebody watches: a Unix socket between a worker and the media process.

The worker serves (`TapServer`), the media process asks for one (camera, stream) a connection (`open_tap`). Framing,
all big-endian: request and error are a 4-byte length and JSON; then messages of a type byte, a 4-byte length and a
body: `F` format, `U` unit, `E` error (the stream is not there, or over). A slow watcher loses whole GOPs in the
fan-out's reader; the socket's own buffer is bounded by `drain`.

`TapServer` asks `fanouts(camera, stream)` once a connection; it may be asynchronous and start the stream, and
`released(camera, stream)` is called when that stream's last watcher has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ingest.access_unit import AccessUnit, StreamFormat
from ingest.errors import GridwatchError
from ingest.fanout import Fanout, FanoutClosedError

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4096
MAX_MESSAGE_BYTES = 9 << 20
MAX_CONNECTIONS = 512
REQUEST_WAIT_S = 5.0
CAPACITY_UNITS = 256
WRITE_BUFFER_BYTES = 256 * 1024

_HEAD = struct.Struct(">cI")
_LENGTH = struct.Struct(">I")
_UNIT = struct.Struct(">qqddBIH")
_FORMAT, _UNIT_KIND, _ERROR = b"F", b"U", b"E"

Fanouts = Callable[[str, str], Fanout | Awaitable[Fanout | None] | None]


class TapServer:
    """Life: `start`, `stop` (watchers are told that the stream is over). The socket is for this user only."""

    def __init__(self, path: Path, fanouts: Fanouts, released: Callable[[str, str], None] | None = None) -> None:
        self.path = path
        self.refused_connections = 0
        self._fanouts = fanouts
        self._released = released
        self._server: asyncio.Server | None = None
        self._watchers: Counter[tuple[str, str]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; a socket left over from a dead worker is replaced."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        self.path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and end every watcher."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def watchers(self, camera: str, stream: str) -> int:
        """How many watch a stream now."""
        return self._watchers[camera, stream]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= MAX_CONNECTIONS:
            self.refused_connections += 1
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            log.debug("tap connection ended", extra={"why": repr(error)})
        except asyncio.CancelledError:
            if self._server is not None and self._server.is_serving():
                raise
            # `stop` ended this task; asyncio's streams would log the cancellation as an error of theirs.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        async with asyncio.timeout(REQUEST_WAIT_S):
            request = await _read_json(reader, MAX_REQUEST_BYTES)
        key = str(request.get("camera", "")), str(request.get("stream", ""))
        self._watchers[key] += 1
        try:
            found = self._fanouts(*key)
            fanout = await found if inspect.isawaitable(found) else found
            if fanout is None:
                writer.write(_message(_ERROR, _json("tap.no_stream", camera=key[0], stream=key[1])))
                await writer.drain()
                return
            gone = asyncio.create_task(reader.read(1), name=f"tap watcher {key[0]}/{key[1]}")
            sending = asyncio.create_task(self._send(fanout, key, writer), name=f"tap {key[0]}/{key[1]}")
            try:
                await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                gone.cancel()
                sending.cancel()
                await asyncio.gather(gone, sending, return_exceptions=True)
        finally:
            self._watchers[key] -= 1
            if not self._watchers[key]:
                del self._watchers[key]
                if self._released is not None:
                    self._released(*key)

    async def _send(self, fanout: Fanout, key: tuple[str, str], writer: asyncio.StreamWriter) -> None:
        tapped = fanout.join("tap", CAPACITY_UNITS)
        told: StreamFormat | None = None
        try:
            while True:
                unit = await tapped.get()
                if unit.format is not told:
                    told = unit.format
                    writer.write(_message(_FORMAT, _pack_format(told)))
                writer.writelines(_pack_unit(unit))
                await writer.drain()
        except FanoutClosedError:
            writer.write(_message(_ERROR, _json("tap.stream_over", camera=key[0], stream=key[1])))
            await writer.drain()
        finally:
            tapped.close()


@asynccontextmanager
async def open_tap(path: Path, camera: str, stream: str) -> AsyncIterator[AsyncIterator[AccessUnit]]:
    """Watch a stream of the worker behind `path`: `async with open_tap(…) as units: async for unit in units: …`.

    Raises:
        GridwatchError: `tap.no_worker`, `tap.no_stream`; while iterating `tap.stream_over` (also when the worker
            died) and `tap.bad_message`.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    except OSError as error:
        raise GridwatchError("tap.no_worker", camera=camera, stream=stream, why=error.strerror or error) from None
    try:
        request = json.dumps({"camera": camera, "stream": stream}).encode()
        writer.write(_LENGTH.pack(len(request)) + request)
        yield _units(reader, camera, stream)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _units(reader: asyncio.StreamReader, camera: str, stream: str) -> AsyncIterator[AccessUnit]:
    form: StreamFormat | None = None
    while True:
        try:
            kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"message of {length} bytes")
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise GridwatchError("tap.stream_over", camera=camera, stream=stream) from None
        except ValueError as error:
            raise GridwatchError("tap.bad_message", camera=camera, stream=stream, why=error) from None
        try:
            if kind == _FORMAT:
                form = _unpack_format(body)
            elif kind == _UNIT_KIND and form is not None:
                yield _unpack_unit(body, form)
            elif kind == _ERROR:
                told = json.loads(body)
                raise GridwatchError(str(told["code"]), **told["facts"])
            else:
                raise ValueError(f"message {kind!r}")
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise GridwatchError("tap.bad_message", camera=camera, stream=stream, why=error) from None


def _message(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body


def _json(code: str, **facts: str) -> bytes:
    return json.dumps({"code": code, "facts": facts}).encode()


async def _read_json(reader: asyncio.StreamReader, most_bytes: int) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > most_bytes:
        raise ValueError(f"request of {length} bytes")
    request = json.loads(await reader.readexactly(length))
    if not isinstance(request, dict):
        raise ValueError("request is no object")
    return request


def _pack_format(form: StreamFormat) -> bytes:
    facts = {
        "codec": form.codec,
        "sps": form.sps.hex(),
        "pps": form.pps.hex(),
        "vps": form.vps.hex() if form.vps is not None else None,
        "width": form.width,
        "height": form.height,
        "profile_level_id": form.profile_level_id,
        "reorder_depth": form.reorder_depth,
        "fps": form.fps,
    }
    return json.dumps(facts).encode()


def _unpack_format(body: bytes) -> StreamFormat:
    facts = json.loads(body)
    for name in ("sps", "pps", "vps"):
        facts[name] = bytes.fromhex(facts[name]) if facts[name] is not None else None
    return StreamFormat(**facts)


def _pack_unit(unit: AccessUnit) -> tuple[bytes, bytes]:
    offsets = unit.nal_offsets
    head = _UNIT.pack(
        unit.pts_90k,
        unit.dts_90k,
        unit.wall_s,
        unit.received_s,
        unit.is_keyframe | unit.discontinuity << 1,
        min(unit.lost_packets, 0xFFFFFFFF),
        len(offsets),
    ) + struct.pack(f">{len(offsets)}I", *offsets)
    return _HEAD.pack(_UNIT_KIND, len(head) + len(unit.data)) + head, unit.data


def _unpack_unit(body: bytes, form: StreamFormat) -> AccessUnit:
    pts, dts, wall_s, received_s, flags, lost, count = _UNIT.unpack_from(body)
    offsets = struct.unpack_from(f">{count}I", body, _UNIT.size)
    return AccessUnit(
        data=body[_UNIT.size + 4 * count :],
        nal_offsets=offsets,
        pts_90k=pts,
        dts_90k=dts,
        is_keyframe=bool(flags & 1),
        wall_s=wall_s,
        received_s=received_s,
        format=form,
        lost_packets=lost,
        discontinuity=bool(flags & 2),
    )
