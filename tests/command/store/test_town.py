"""The files in tables: repeated without a trace, changed by versions, and nothing that a row may name is deleted."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from command.store.town import sync_town


async def sync(store: Any, streams: Any, grids: Any) -> None:
    async with await psycopg.AsyncConnection.connect(store.conninfo, autocommit=True) as conn:
        await sync_town(conn, streams, grids)


async def test_syncing_again_writes_nothing(store: Any, make_streams: Any, make_grids: Any) -> None:
    tables = ("cameras", "people", "grids", "grid_roles")
    before = {table: store.rows(f"SELECT xmin::text, * FROM {table} ORDER BY 2, 3") for table in tables}
    await sync(store, make_streams(), make_grids())
    assert {table: store.rows(f"SELECT xmin::text, * FROM {table} ORDER BY 2, 3") for table in tables} == before


async def test_cameras_go_and_come_back(store: Any, make_streams: Any, make_grids: Any) -> None:
    await sync(store, make_streams(["c-1", "c-3"]), make_grids())
    removed = {row["camera_id"]: row["removed_at"] is not None for row in store.rows("SELECT * FROM cameras")}
    assert removed == {"c-1": False, "c-2": True, "c-3": False}
    await sync(store, make_streams(["c-1", "c-2"]), make_grids())
    removed = {row["camera_id"]: row["removed_at"] is not None for row in store.rows("SELECT * FROM cameras")}
    assert removed == {"c-1": False, "c-2": False, "c-3": True}


async def test_changed_grid_gets_a_version_and_a_vanished_one_ends(
    store: Any, make_streams: Any, make_grids: Any
) -> None:
    await sync(store, make_streams(), make_grids(1, shift=0.005))
    versions = store.rows("SELECT * FROM grids ORDER BY grid_id, valid_from")
    assert [(row["grid_id"], row["valid_to"] is None) for row in versions] == [
        ("g-0", False),
        ("g-0", True),
        ("g-1", False),
    ]
    assert versions[0]["valid_to"] == versions[1]["valid_from"]
    assert {row["grid_id"] for row in store.rows("SELECT * FROM grid_roles")} == {"g-0"}
    gone = {row["person_id"] for row in store.rows("SELECT * FROM people WHERE removed_at IS NOT NULL")}
    assert gone == {f"{role}-1" for role in ("patroller", "leader", "supervisor", "police_officer", "volunteer")}


async def test_another_holder_takes_over_the_role(store: Any, make_streams: Any, make_grids: Any) -> None:
    await sync(store, make_streams(), make_grids(first_patroller="new-one"))
    [role] = store.rows("SELECT * FROM grid_roles WHERE grid_id = 'g-0' AND role = 'patroller'")
    assert role["person_id"] == "new-one"
    assert len(store.rows("SELECT * FROM grids")) == 2, "roles are no new version of a grid"


async def test_failed_sync_leaves_everything_as_it_was(store: Any, make_streams: Any, make_grids: Any) -> None:
    with psycopg.connect(store.conninfo, autocommit=True) as admin:
        admin.execute("ALTER TABLE grid_roles ADD CHECK (person_id <> 'forbidden')")
    with pytest.raises(psycopg.errors.CheckViolation):
        await sync(store, make_streams(["c-9"]), make_grids(first_patroller="forbidden"))
    assert {row["camera_id"] for row in store.rows("SELECT * FROM cameras")} == {"c-1", "c-2"}
