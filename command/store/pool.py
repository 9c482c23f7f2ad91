"""Connections to the store for many short reads and writes: a pool that outlives restarts of the server.

A broken connection is noticed when it is taken (`check`) and replaced; statements and idle transactions have an end, so
that a slow query or a hung task never holds the others up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, conninfo
from psycopg_pool import AsyncConnectionPool

Connection = AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]

STATEMENT_TIMEOUT_S = 15


def bounded(given: str, statement_timeout_s: float = STATEMENT_TIMEOUT_S, application: str = "gridwatch") -> str:
    """`given` with time limits for every statement and with TCP probes, so that a silent server counts as gone."""
    params = conninfo.conninfo_to_dict(given)
    limits = f"-c statement_timeout={int(statement_timeout_s * 1000)} -c idle_in_transaction_session_timeout=60000"
    params["options"] = f"{params.get('options') or ''} {limits}".strip()
    defaults = {
        "connect_timeout": "5",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
        "application_name": application,
    }
    return conninfo.make_conninfo("", **{**defaults, **params})


@asynccontextmanager
async def open_pool(
    given: str, *, max_size: int = 8, statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> AsyncIterator[Pool]:
    """A pool of connections whose `async with` block is one transaction, committed at its end; closed at the end.

    Does not wait for the server: taking a connection does, and raises `psycopg_pool.PoolTimeout` after 10 s.
    """
    pool: Pool = AsyncConnectionPool(
        bounded(given, statement_timeout_s),
        min_size=1,
        max_size=max_size,
        timeout=10.0,
        max_idle=300.0,
        reconnect_timeout=60.0,
        check=AsyncConnectionPool.check_connection,
        name="store",
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()
