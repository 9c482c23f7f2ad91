"""Logs that a person can read on a terminal and a machine can read in a pipe (one JSON object a line). English."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


def set_up_logs(process: str, level: int = logging.INFO) -> None:
    """Send this process's logs to stderr: coloured on a terminal, JSON otherwise. Once a process, at its start."""
    terminal = sys.stderr.isatty()

    def name_process(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        record["process"] = process  # not a context variable: threads inherit none
        return record

    shared: list[Any] = [
        name_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(pad_event_to=0)
        if terminal
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not terminal:
        tail.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*tail, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("amqtt", "transitions", "aioice", "aiortc", "mqtt", "uvicorn", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
