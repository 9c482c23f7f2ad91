"""Work that may block, in order, in one daemon thread: a disk that hangs must not keep the process from ending."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Aside:
    """`submit` never waits; `stop` lets what was submitted come to its end, but waits only so long."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Do it after what was submitted before."""
        self._work.put(work)

    def stop(self, timeout_s: float) -> bool:
        """Whether all was done in time."""
        self._work.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("work of the recorder failed")
