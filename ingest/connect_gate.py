"""How many cameras may be opened at once: a worker's links share one gate.

Two pools. A camera that answered last time (or was never tried) opens in the main pool, with little patience, so that
it is soon clear whether it answers. One that did not answer tries again in the small pool, with much patience: a
hundred black-holed addresses then wait for each other, and never in front of healthy cameras.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ingest.rtsp import Patience

MAIN_PATIENCE = Patience(connect_s=1.0, first_answer_s=2.0, answer_s=5.0)
SILENT_PATIENCE = Patience(connect_s=4.0, first_answer_s=8.0, answer_s=8.0)


class ConnectGate:
    """`spacing_s` staggers the starts of the main pool."""

    def __init__(self, main: int = 16, silent: int = 8, spacing_s: float = 0.01) -> None:
        self._main = asyncio.Semaphore(main)
        self._silent = asyncio.Semaphore(silent)
        self._spacing_s = spacing_s
        self._next_start_s = 0.0

    @asynccontextmanager
    async def turn(self, *, silent: bool) -> AsyncIterator[Patience]:
        """Wait for a place and hold it while a session is opened; gives the patience of its pool."""
        async with self._silent if silent else self._main:
            if not silent:
                await self._stagger()
            yield SILENT_PATIENCE if silent else MAIN_PATIENCE

    async def _stagger(self) -> None:
        now_s = asyncio.get_running_loop().time()
        start_s = max(now_s, self._next_start_s)
        self._next_start_s = start_s + self._spacing_s
        if start_s > now_s:
            await asyncio.sleep(start_s - now_s)
