"""The API against a real database: lists, pages, details, steps with expected revisions, refusals, probes, metrics."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from command.web.state import PartHealth, SpoolDepth
from ingest.event import new_id
from ingest.health import CameraState

Api = httpx.AsyncClient


async def test_cameras_carry_their_state_and_reason_and_never_an_address(town: Any, api: Api) -> None:
    town.set_state("c-003", CameraState.UNREACHABLE, "web.media_away", why="no answer")
    cameras = {one["camera_id"]: one for one in (await api.get("/api/v1/cameras")).json()["items"]}
    assert len(cameras) == 24
    assert cameras["c-000"]["health"]["state"] == "live"
    assert cameras["c-000"]["zones"][0]["polygon"][0] == [0.3, 0.35]
    assert "no answer" in cameras["c-003"]["health"]["reason_zh"]
    detail = (await api.get("/api/v1/cameras/c-003", headers={"accept-language": "en"})).json()
    assert detail["streams"][0]["reason"].startswith("The process for live pictures")
    assert detail["picture_taken_at"] is None
    assert "rtsp" not in str(cameras)


async def test_removed_camera_is_still_named(town: Any, api: Api) -> None:
    with psycopg.connect(town.conninfo) as conn:
        conn.execute("UPDATE cameras SET removed_at = now() WHERE camera_id = 'c-005'")
    cameras = {one["camera_id"]: one["removed"] for one in (await api.get("/api/v1/cameras")).json()["items"]}
    assert cameras["c-005"] is True
    assert cameras["c-004"] is False


async def test_picture_is_revalidated_by_its_tag(town: Any, api: Api) -> None:
    from datetime import UTC, datetime

    assert (await api.get("/api/v1/cameras/c-000/picture")).status_code == 204
    assert (await api.get("/api/v1/cameras/c-999/picture")).status_code == 404
    await asyncio.to_thread(town.pictures.put, "c-000", b"\xff\xd8one", datetime(2026, 1, 1, tzinfo=UTC))
    first = await api.get("/api/v1/cameras/c-000/picture")
    assert (first.status_code, first.content, first.headers["content-type"]) == (200, b"\xff\xd8one", "image/jpeg")
    assert first.headers["x-taken-at"] == "2026-01-01T00:00:00+00:00"
    again = await api.get("/api/v1/cameras/c-000/picture", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    await asyncio.to_thread(town.pictures.put, "c-000", b"\xff\xd8two", datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC))
    newer = await api.get("/api/v1/cameras/c-000/picture", headers={"if-none-match": first.headers["etag"]})
    assert (newer.status_code, newer.content) == (200, b"\xff\xd8two")


@pytest.mark.parametrize("path", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "A" * 64, "0" * 63, "%2e%2e"])
async def test_evidence_is_reached_by_checksum_only(api: Api, path: str) -> None:
    answer = await api.get(f"/api/v1/evidence/{path}")
    assert answer.status_code in (404, 422)
    assert set(answer.json()) == {"code", "message", "message_en", "detail"}


async def test_evidence_is_immutable(town: Any, api: Api) -> None:
    from datetime import UTC, datetime

    saved = town.evidence.save_jpeg(b"\xff\xd8jpeg\xff\xd9", datetime.now(UTC), 2, 2)
    answer = await api.get(f"/api/v1/evidence/{saved.sha256}")
    assert hashlib.sha256(answer.content).hexdigest() == saved.sha256
    assert "immutable" in answer.headers["cache-control"]
    tag = {"if-none-match": answer.headers["etag"]}
    assert (await api.get(f"/api/v1/evidence/{saved.sha256}", headers=tag)).status_code == 304
    assert (await api.get(f"/api/v1/evidence/{'0' * 64}")).json()["code"] == "web.unknown_evidence"


async def test_grids_are_geojson(api: Api) -> None:
    answer = (await api.get("/api/v1/grids")).json()
    assert answer["type"] == "FeatureCollection"
    assert len(answer["features"]) == 12
    assert answer["features"][0]["properties"]["roles"] == {"patroller": "巡查员1"}
    assert answer["features"][0]["geometry"]["type"] == "Polygon"


async def test_lists_are_paged_without_repeating_while_they_grow(town: Any, api: Api) -> None:
    for number in range(7):
        town.add_event(number, 30 - number)
    seen: list[str] = []
    cursor = ""
    for turn in range(10):
        page = (await api.get(f"/api/v1/events?limit=3{cursor}")).json()
        seen += [event["id"] for event in page["items"]]
        if turn == 0:
            town.add_event(9, 0)
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [str(one) for one in reversed(town.events[:7])]
    assert (await api.get("/api/v1/events?cursor=bad!")).json()["code"] == "store.bad_cursor"
    assert [c["number"] for c in (await api.get("/api/v1/cases?limit=2")).json()["items"]] == [8, 7]
    only = (await api.get("/api/v1/events?camera_id=c-002&since=2020-01-01T00:00:00Z&code=5.6")).json()["items"]
    assert [event["camera_id"] for event in only] == ["c-002"]


async def test_case_tells_events_steps_tasks_and_what_may_be_done(town: Any, api: Api) -> None:
    event_id = town.add_event(1, 10, task="done", case="reported_back")
    event = (await api.get(f"/api/v1/events/{event_id}")).json()
    assert (event["title_zh"], event["title_en"]) == ("入侵检测", "zone intrusion")
    assert event["case_number"] == 1
    case = (await api.get(f"/api/v1/cases/{event['case_id']}")).json()
    assert [step["step"] for step in case["steps"]] == ["collect", "register", "dispatch"]
    assert case["events"][0]["id"] == str(event_id)
    assert case["lead_task"]["person_name"] == "巡查员2"
    assert case["lead_task"]["confirmed"] is True
    assert {"verify", "send_back", "dismiss"} <= set(case["allowed_steps"])
    task = (await api.get(f"/api/v1/tasks/{case['lead_task']['task_id']}")).json()
    assert task["steps"] == []
    listed = (await api.get("/api/v1/tasks?state=done")).json()["items"]
    assert [one["task_id"] for one in listed] == [task["task_id"]]


async def test_two_operators_at_once_make_one_winner_and_one_conflict(town: Any, api: Api) -> None:
    town.add_event(1, 10, task="done", case="reported_back")
    path = f"/api/v1/cases/{town.cases[0]}/steps"
    step = {"step": "verify", "expected_revision": 3}
    answers = await asyncio.gather(api.post(path, json=step), api.post(path, json=step))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    won, lost = sorted(answers, key=lambda answer: answer.status_code)
    assert won.json()["state"] == "closed"
    assert lost.json()["code"] == "web.case_moved_on"
    assert lost.json()["detail"] == {"revision": won.json()["revision"], "state": "closed"}
    steps = (await api.get(f"/api/v1/cases/{town.cases[0]}")).json()["steps"]
    assert [entry["person_id"] for entry in steps if entry["step"] == "verify"] == ["operator"]


async def test_repeated_step_with_its_id_is_harmless(town: Any, api: Api) -> None:
    town.add_event(1, 10, task="done", case="reported_back")
    path = f"/api/v1/cases/{town.cases[0]}/steps"
    step = {"step": "verify", "expected_revision": 3, "step_id": str(new_id())}
    first, again = (await api.post(path, json=step)), (await api.post(path, json=step))
    assert (first.status_code, first.json()) == (again.status_code, again.json())


async def test_steps_that_cannot_be_taken_are_refused_in_words(town: Any, api: Api) -> None:
    town.add_event(1, 10, task="done", case="reported_back")
    path = f"/api/v1/cases/{town.cases[0]}/steps"

    async def refusal(step: dict[str, Any], where: str = path) -> tuple[int, str]:
        answer = await api.post(where, json=step)
        return answer.status_code, answer.json()["code"]

    assert await refusal({"step": "send_back", "expected_revision": 3, "note": "  "}) == (422, "web.note_needed")
    assert await refusal({"step": "fly", "expected_revision": 3}) == (422, "web.unknown_step")
    assert await refusal({"step": "reopen", "expected_revision": 3}) == (409, "web.step_not_allowed")
    assert await refusal({"step": "verify"}) == (422, "web.bad_request")
    assert await refusal({"step": "verify", "expected_revision": 3, "extra": 1}) == (422, "web.bad_request")
    elsewhere = f"/api/v1/cases/{uuid4()}/steps"
    assert await refusal({"step": "verify", "expected_revision": 3}, elsewhere) == (404, "web.unknown_case")


async def test_refusals_speak_the_callers_language(api: Api) -> None:
    chinese = (await api.get(f"/api/v1/cases/{uuid4()}")).json()
    assert chinese["message"].startswith("没有案件")
    assert chinese["message_en"].startswith("There is no case")
    english = (await api.get(f"/api/v1/cases/{uuid4()}", headers={"accept-language": "en-GB,en;q=0.9"})).json()
    assert english["message"] == english["message_en"]
    assert (await api.get("/api/v1/tasks/x?lang=en")).json()["message"].startswith("The request is not right")
    assert (await api.get("/nothing?lang=en")).json()["code"] == "web.unknown_path"
    assert (await api.put("/api/v1/cases")).json()["code"] == "web.wrong_method"
    big = await api.post(f"/api/v1/cases/{uuid4()}/steps", content=b"{" + b" " * 100_000, headers=_JSON)
    assert (big.status_code, big.json()["code"]) == (413, "web.too_large")


_JSON = {"content-type": "application/json"}


async def test_healthz_names_the_part_that_does_not_run(town: Any, api: Api) -> None:
    town.spools[:] = [SpoolDepth("worker-0", 7, 900)]
    answer = await api.get("/healthz")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert (answer.json()["cameras_live"], answer.json()["cameras_total"], answer.json()["spooled_rows"]) == (22, 24, 7)
    town.parts[:] = [PartHealth("broker", False, "web.media_away", {"why": "gone"})]
    answer = await api.get("/healthz")
    assert answer.status_code == 503
    assert [part["name"] for part in answer.json()["parts"] if not part["ok"]] == ["broker"]


async def test_database_away_is_said_and_metrics_go_on(town: Any, api: Api, pool: Any) -> None:
    await pool.close()
    answer = await api.get("/api/v1/events")
    assert (answer.status_code, answer.json()["code"]) == (503, "web.database_away")
    assert answer.headers["retry-after"] == "2"
    assert (await api.get("/healthz")).status_code == 503
    text = (await api.get("/metrics")).text
    assert 'gridwatch_part_up{part="database"} 0.0' in text
    assert 'gridwatch_cameras{state="live"} 22.0' in text
    assert "gridwatch_cases_open" not in text


async def test_metrics_count_what_the_town_has(town: Any, api: Api) -> None:
    town.add_event(1, 3)
    town.spools[:] = [SpoolDepth("worker-0", 7, 900)]
    text = (await api.get("/metrics")).text
    for line in (
        'gridwatch_cameras{state="unreachable"} 1.0',
        'gridwatch_stream_frames_total{camera="c-002",stream="main"} 1002.0',
        "gridwatch_events 1.0",
        "gridwatch_cases_open 1.0",
        "gridwatch_outbox_open 1.0",
        'gridwatch_spool_rows{spool="worker-0"} 7.0',
    ):
        assert line in text, line


async def test_town_tells_zone_and_counts(town: Any, api: Api) -> None:
    town.add_event(1, 3)
    answer = (await api.get("/api/v1/town")).json()
    assert answer["timezone"] == "Asia/Shanghai"
    assert answer["counts"] == {"open_cases": 1, "unconfirmed_tasks": 1}


async def test_openapi_types_every_answer(api: Api) -> None:
    described = (await api.get("/openapi.json")).json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
            assert good.get("content") or path.endswith(("/whep", "/whep/{session_id}", "/metrics")), (method, path)
