"""How a route reaches the application's state, the database and the caller's language."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from fastapi import Depends
from psycopg import AsyncConnection
from starlette.requests import HTTPConnection

from command.web.answers import language
from command.web.live import LiveHub
from command.web.state import AppState

POOL_WAIT_S = 3.0


def _state(connection: HTTPConnection) -> AppState:
    return cast(AppState, connection.app.state.gridwatch)


def _hub(connection: HTTPConnection) -> LiveHub:
    return cast(LiveHub, connection.app.state.live)


async def _connection(connection: HTTPConnection) -> AsyncIterator[AsyncConnection[Any]]:
    """A pooled connection, given back (and committed or rolled back) before the answer is sent."""
    async with _state(connection).pool.connection(timeout=POOL_WAIT_S) as conn:
        yield conn


State = Annotated[AppState, Depends(_state)]
Hub = Annotated[LiveHub, Depends(_hub)]
Connection = Annotated[AsyncConnection[Any], Depends(_connection, scope="function")]
Lang = Annotated[str, Depends(language)]
