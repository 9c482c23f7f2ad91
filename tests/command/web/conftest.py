"""A small seeded town behind the real application: database, evidence and pictures are real files and rows."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import cv2
import httpx
import numpy as np
import psycopg
import pytest
from fastapi import FastAPI
from psycopg.types.json import Jsonb

from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from command.settings import Settings
from command.store.pool import Pool, open_pool
from command.web.app import create_app
from command.web.server import WebServer
from command.web.state import AppState, PartHealth, SpoolDepth
from ingest.event import new_id
from ingest.health import CameraState, StreamHealth

VILLAGES = ("东庄村", "西张村", "南李村", "北王村", "上村", "柳河村")
CAMERAS = 24
GRIDS = 12
ZONE = {"id": "z1", "name": "仓库门前", "polygon": [[0.3, 0.35], [0.75, 0.35], [0.8, 0.95], [0.25, 0.95]]}


@dataclass
class Town:
    """What was seeded, and knobs that tests turn."""

    conninfo: str
    folder: Path
    evidence: EvidenceStore
    pictures: LastPictures
    health: list[StreamHealth]
    parts: list[PartHealth] = field(default_factory=lambda: [PartHealth("broker", True), PartHealth("worker-0", True)])
    spools: list[SpoolDepth] = field(default_factory=lambda: [SpoolDepth("worker-0", 0, 0)])
    events: list[UUID] = field(default_factory=list)
    cases: list[UUID] = field(default_factory=list)

    def set_state(self, camera_id: str, state: CameraState, reason_code: str | None = None, **facts: str) -> None:
        """Change a camera's state as its worker would."""
        self.health[:] = [
            replace_health(one, state, reason_code, facts) if one.camera_id == camera_id else one for one in self.health
        ]

    def add_event(self, number: int, minutes_ago: float, *, task: str = "offered", case: str = "dispatched") -> UUID:
        """An event with its evidence, its case and its task in one transaction, told by NOTIFY like the store does."""
        camera = f"c-{number % CAMERAS:03d}"
        jpeg = draw_scene(number, with_person=True)
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        picture = self.evidence.save_jpeg(jpeg, at, 1280, 720)
        event_id, case_id, task_id = new_id(), new_id(), new_id()
        grid = f"g-{number % GRIDS:03d}"
        box = {"x": 0.46, "y": 0.42, "w": 0.09, "h": 0.36}
        state, ended = ("closed", at + timedelta(seconds=40)) if minutes_ago > 5 else ("opened", None)
        with psycopg.connect(self.conninfo) as conn:
            conn.execute(
                """INSERT INTO events (id, started_at, epoch, number, state, code, camera_id, rule_id, zone_id,
                priority, updated_at, ended_at, emitted_at, score, object_class, box, lon, lat, place_from, grid_id,
                grid_match, evidence) VALUES (%s, %s, 1, 1, %s, '5.6', %s, 'r1', 'z1', %s, %s, %s, %s, 0.87, 'person',
                %s, %s, %s, 'camera', %s, 'inside', %s)""",
                (event_id, at, state, camera, 1 + number % 4, at, ended, at, Jsonb(box), *place(number), grid,
                 Jsonb([json.loads(picture.model_dump_json())])),
            )  # fmt: skip
            conn.execute(
                """INSERT INTO cases (case_id, revision, state, code, grid_id, village, camera_id, zone_id, opened_at,
                changed_at) VALUES (%s, 3, %s, '5.6', %s, %s, %s, 'z1', %s, %s)""",
                (case_id, case, grid, VILLAGES[number % len(VILLAGES)], camera, at, at),
            )
            conn.execute(
                "INSERT INTO case_events SELECT %s, id, started_at, to_jsonb(e) FROM events e WHERE id = %s",
                (case_id, event_id),
            )
            steps = (("collect", None, "collected"), ("register", "collected", "registered"),
                     ("dispatch", "registered", "dispatched"))  # fmt: skip
            for revision, (step, before, after) in enumerate(steps, start=1):
                conn.execute(
                    """INSERT INTO case_steps (step_id, case_id, revision, at, step, from_state, to_state)
                    VALUES (%s, %s, %s, %s, %s, %s, %s)""",
                    (new_id(), case_id, revision, at, step, before, after),
                )
            conn.execute(
                """INSERT INTO tasks (task_id, case_id, state, person_id, grid_id, offered_at, changed_at, due_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
                (task_id, case_id, task, f"p-{number % GRIDS}", grid, at, at, at + timedelta(minutes=30)),
            )
            conn.execute(
                "INSERT INTO outbox (outbox_id, person_id, task_id, revision, body, confirmed_at) VALUES "
                "(%s, %s, %s, 1, '{}', %s)",
                (new_id(), f"p-{number % GRIDS}", task_id, None if task == "offered" else at),
            )
            told = [{"kind": "event", "id": str(event_id)}, {"kind": "case", "id": str(case_id)}]
            conn.execute("SELECT pg_notify('gridwatch_changes', %s)", (json.dumps(told),))
        self.events.append(event_id)
        self.cases.append(case_id)
        return event_id


def replace_health(one: StreamHealth, state: CameraState, code: str | None, facts: dict[str, str]) -> StreamHealth:
    """The same stream in another state since now."""
    return one.model_copy(
        update={"state": state, "reason_code": code, "reason_facts": facts, "since": datetime.now(UTC)}
    )


def place(number: int) -> tuple[float, float]:
    """Where camera `number` stands: a loose spiral around the town."""
    turn, far = number * 2.4, 0.004 + 0.0021 * number
    return 115.83 + far * math.cos(turn), 38.42 + 0.8 * far * math.sin(turn)


def draw_scene(number: int, *, with_person: bool = False) -> bytes:
    """A synthetic street as a JPEG, 1280x720."""
    rng = np.random.default_rng(number)
    picture = np.full((720, 1280, 3), (150, 160, 150), np.uint8)
    picture[:300] = (190, 170, 140)
    cv2.fillPoly(picture, [np.array([[0, 720], [1280, 720], [800, 300], [480, 300]])], (95, 95, 95))
    for x in range(0, 1280, 180):
        height = int(rng.integers(80, 200))
        colour = [int(c) for c in rng.integers(70, 170, 3)]
        cv2.rectangle(picture, (x, 300 - height), (x + 150, 300), colour, -1)
    if with_person:
        cv2.ellipse(picture, (645, 460), (42, 100), 0, 0, 360, (60, 50, 140), -1)
        cv2.circle(picture, (645, 335), 28, (120, 150, 200), -1)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return jpeg.tobytes()


def seed(conninfo: str) -> None:
    """Cameras, grids and people."""
    with psycopg.connect(conninfo) as conn:
        for number in range(CAMERAS):
            village = VILLAGES[number % len(VILLAGES)]
            conn.execute(
                "INSERT INTO cameras (camera_id, name, village, lon, lat, heading_deg, zones) VALUES "
                "(%s, %s, %s, %s, %s, 90, %s)",
                (f"c-{number:03d}", f"{village}{number + 1}号", village, *place(number), Jsonb([ZONE])),
            )
        for number in range(GRIDS):
            column, row = number % 4, number // 4
            west, south = 115.77 + column * 0.03, 38.38 + row * 0.028
            ring = [[west, south], [west + 0.03, south], [west + 0.03, south + 0.028], [west, south + 0.028]]
            conn.execute(
                "INSERT INTO grids (grid_id, valid_from, name, village, geometry) VALUES (%s, now(), %s, %s, %s)",
                (f"g-{number:03d}", f"第{number + 1}网格", VILLAGES[number // 2],
                 Jsonb({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})),
            )  # fmt: skip
            conn.execute("INSERT INTO people (person_id, name) VALUES (%s, %s)", (f"p-{number}", f"巡查员{number + 1}"))
            conn.execute(
                "INSERT INTO grid_roles (grid_id, role, person_id) VALUES (%s, 'patroller', %s)",
                (f"g-{number:03d}", f"p-{number}"),
            )


@pytest.fixture
def town(postgres: str, tmp_path: Path) -> Town:
    """Twenty-four cameras of which two are not live, twelve grids, no events yet."""
    seed(postgres)
    pictures = LastPictures(tmp_path / "pictures")
    now = datetime.now(UTC)
    health = [
        StreamHealth(
            camera_id=f"c-{number:03d}", stream="main", state=CameraState.LIVE, since=now, fps=25.0, gop_s=2.0,
            bitrate_bps=3.1e6, width=1920, height=1080, codec="h264", frames=1000 + number, bytes=10_000_000,
        )
        for number in range(CAMERAS)
    ]  # fmt: skip
    made = Town(postgres, tmp_path, EvidenceStore(tmp_path / "evidence"), pictures, health)
    made.set_state("c-003", CameraState.UNREACHABLE)
    made.set_state("c-007", CameraState.CONNECTING)
    return made


@pytest.fixture
async def pool(town: Town) -> AsyncIterator[Pool]:
    async with open_pool(town.conninfo) as opened:
        yield opened


@pytest.fixture
def app(town: Town, pool: Pool) -> FastAPI:
    return create_app(
        AppState(
            settings=replace(Settings(), home=town.folder),
            conninfo=town.conninfo,
            pool=pool,
            health=lambda: town.health,
            pictures=town.pictures,
            evidence=town.evidence,
            media_socket=town.folder / "media.sock",
            parts=lambda: town.parts,
            spools=lambda: town.spools,
        )
    )


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application without a server; its lifespan runs."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8480") as client,
    ):
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[WebServer]:
    """The application on a free port of this machine."""
    async with WebServer(app, "127.0.0.1", 0) as running:
        yield running
