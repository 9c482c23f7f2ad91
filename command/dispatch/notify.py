"""Waking those who wait: `gridwatch_changes` for pages, `gridwatch_outbox` for the relay; both fire at commit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

import psycopg

CHANGES = "gridwatch_changes"
OUTBOX = "gridwatch_outbox"
Change = tuple[Literal["case", "task"], UUID]
_A_NOTICE = 100  # PostgreSQL refuses a payload of 8000 bytes or more; a change has about 70


async def notify_changes(conn: psycopg.AsyncConnection[Any], changes: Iterable[Change]) -> None:
    """Tell pages which cases and tasks changed, as JSON lists of `{"kind": …, "id": …}`, each named once."""
    named = [{"kind": kind, "id": str(one)} for kind, one in dict.fromkeys(changes)]
    for start in range(0, len(named), _A_NOTICE):
        payload = json.dumps(named[start : start + _A_NOTICE], separators=(",", ":"))
        await conn.execute("SELECT pg_notify(%s, %s)", (CHANGES, payload))


async def ring_outbox(conn: psycopg.AsyncConnection[Any]) -> None:
    """Tell the relay that there may be something to publish."""
    await conn.execute("SELECT pg_notify(%s, '')", (OUTBOX,))
