"""Camera health over the API and /metrics: history by time, faults with sentences, refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from command.store.camera_health import HealthRow, store_health
from ingest.health import CLOCK_OFF, FOOTAGE_STALE, CameraState, Fault

Api = httpx.AsyncClient
NOW = datetime.now(UTC)


async def seed(conninfo: str, *, minutes: int) -> None:
    rows = []
    for ago in range(minutes, 0, -1):
        at, lost = NOW - timedelta(minutes=ago), ago == 30
        rows.append(
            HealthRow(
                "c-001",
                "main",
                at,
                lost,
                "unreachable" if lost else "live",
                "camera.unreachable" if lost else None,
                {"host": "10.0.0.1", "port": "554", "waited_s": "5", "why": "timed out"} if lost else None,
                [],
                fps=25.0,
                jitter_ms=float(ago),
                span_s=60.0,
                live_s=0.0 if lost else 60.0,
                frames=1500,
                lost_packets=1,
                gaps=1,
                reconnects=0,
                dropped_units=0,
            )
        )
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        await store_health(conn, rows)


async def test_history_by_minutes_and_in_steps(town: Any, api: Api) -> None:
    await seed(town.conninfo, minutes=120)
    answer = (await api.get("/api/v1/cameras/c-001/health", params={"lang": "en"})).json()
    assert answer["step_s"] == 120
    [stream] = answer["streams"]
    assert sum(point["frames"] for point in stream["points"]) == 120 * 1500
    [change] = answer["changes"]
    assert (change["state"], change["reason_code"]) == ("unreachable", "camera.unreachable")
    assert change["reason"].startswith("Camera c-001 (main) does not answer: 10.0.0.1:554")
    hour = {"from": (NOW - timedelta(minutes=60)).isoformat(), "to": NOW.isoformat()}
    answer = (await api.get("/api/v1/cameras/c-001/health", params=hour)).json()
    assert answer["step_s"] == 60
    assert len(answer["streams"][0]["points"]) == 60
    assert sum(point["live_share"] for point in answer["streams"][0]["points"]) == 59
    month = {"from": (NOW - timedelta(days=30)).isoformat(), "to": NOW.isoformat()}
    answer = (await api.get("/api/v1/cameras/c-001/health", params=month)).json()
    assert answer["step_s"] == 3600 and len(answer["streams"][0]["points"]) <= 4
    assert (await api.get("/api/v1/cameras/c-002/health")).json()["streams"] == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "web.bad_span"),
        ({"from": "2020-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "web.bad_span"),
        ({"to": "0001-01-01T00:00:00Z"}, "web.bad_span"),
        ({"from": "0001-01-01T00:00:00Z"}, "web.bad_span"),
        ({"from": "2026-01-02T00:00:00"}, "web.bad_request"),
        ({"from": "yesterday"}, "web.bad_request"),
    ],
)
async def test_spans_that_cannot_be_are_refused(api: Api, params: dict[str, str], code: str) -> None:
    answer = await api.get("/api/v1/cameras/c-001/health", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_unknown_camera(api: Api) -> None:
    answer = await api.get("/api/v1/cameras/c-999/health")
    assert (answer.status_code, answer.json()["code"]) == (404, "web.unknown_camera")


async def test_faults_are_told_beside_the_state(town: Any, api: Api) -> None:
    clock_off = Fault(code=CLOCK_OFF, facts={"offset_s": "+7.0", "limit_s": "2"}, since=NOW)
    stale = Fault(code=FOOTAGE_STALE, facts={"stale_s": "120"}, since=NOW)
    town.health[:] = [
        one.model_copy(
            update={
                "faults": (clock_off,) if one.camera_id == "c-001" else (stale,) if one.camera_id == "c-002" else (),
                "last_error_code": "camera.stalled",
                "last_error_facts": {"waited_s": "5", "usual_s": "0.04"},
                "jitter_ms": 4.0,
                "gaps": 3,
                "clock_offset_s": 7.0,
            }
        )
        for one in town.health
    ]
    live = len([one for one in town.health if one.stream == "main" and one.state is CameraState.LIVE])
    cameras = {one["camera_id"]: one for one in (await api.get("/api/v1/cameras")).json()["items"]}
    assert cameras["c-001"]["health"]["faults"] == [CLOCK_OFF]
    assert cameras["c-001"]["health"]["state"] == "live"
    [main, *_] = (await api.get("/api/v1/cameras/c-001", params={"lang": "en"})).json()["streams"]
    assert "+7.0 s off" in main["fault_sentences"][0] and "NTP" in main["fault_sentences"][0]
    assert main["last_error"].startswith("Camera c-001 (main) has sent no frame for 5 s")
    assert (await api.get("/healthz")).json()["cameras_live"] == live - 1  # not where footage is stale
    text = (await api.get("/metrics")).text
    for line in (
        'gridwatch_stream_fault{camera="c-001",fault="clock_off",stream="main"} 1.0',
        'gridwatch_stream_fault{camera="c-002",fault="footage_stale",stream="main"} 1.0',
        'gridwatch_stream_live{camera="c-001",stream="main"} 1.0',
        'gridwatch_stream_live{camera="c-002",stream="main"} 0.0',
        'gridwatch_stream_jitter_seconds{camera="c-001",stream="main"} 0.004',
        'gridwatch_stream_gaps_total{camera="c-001",stream="main"} 3.0',
        'gridwatch_stream_clock_offset_seconds{camera="c-001",stream="main"} 7.0',
    ):
        assert line in text, line
