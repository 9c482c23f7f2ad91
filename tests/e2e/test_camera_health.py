"""A whole town whose cameras fail in different ways: each is told as what it is, and is over when it is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ingest.simulate.camera import SimCamera
from ingest.simulate.fault import FaultKind
from tests.e2e.live_town import LiveTown, SimulatorThread, until

PLUG, FROZE, BLACK, STILL, LATE, WELL = (f"c-{n:03d}" for n in range(1, 7))
FAULTS = {
    PLUG: FaultKind.REFUSE,
    FROZE: FaultKind.FREEZE,
    BLACK: FaultKind.BLACK_PICTURE,
    STILL: FaultKind.FROZEN_PICTURE,
    LATE: FaultKind.JUMP,
}


def cameras() -> list[SimCamera]:
    return [
        SimCamera(
            name,
            scene="quiet",
            main="tiny",
            sub=None,
            own_port=name == PLUG,
            clock_offset_s=5.0 if name == LATE else 0.0,
        )
        for name in (PLUG, FROZE, BLACK, STILL, LATE, WELL)
    ]


@pytest.mark.long
def test_each_fault_is_told_as_what_it_is(short_tmp: Path) -> None:
    """Two minutes: loss after 8 s here, black after 20 s, frozen after 60 s; the jump and the wrong clock are none."""
    environment = {"GRIDWATCH_LOSS_AFTER_S": "8", "GRIDWATCH_LOOK_EVERY_S": "2"}
    with (
        SimulatorThread(cameras()) as simulator,
        LiveTown(short_tmp / "health", simulator, cameras(), environment) as town,
    ):
        names = [camera.id for camera in cameras()]
        until(lambda: all(town.camera(name)["picture_taken_at"] for name in names), 30, "a picture of each")
        for camera, kind in FAULTS.items():
            simulator.set_fault(camera, kind)
        began_s = time.monotonic()

        def events() -> dict[str, dict[str, Any]]:
            items = town.get("events", limit=100)["items"]
            return {f"{one['camera_id']} {one['code']} {one['attributes']['kind']}": one for one in items}

        expected = {f"{PLUG} 2.1 video_loss", f"{FROZE} 2.1 video_loss", f"{BLACK} 5.11 black", f"{STILL} 5.11 frozen"}
        until(lambda: set(events()) >= expected, 110, "all four")
        told = events()
        print(f"\nall told after {time.monotonic() - began_s:.0f} s", sorted(told))
        assert set(told) == expected
        assert all(one["state"] != "closed" for one in told.values())
        for name, one in told.items():
            if "5.11" in name:
                assert one["evidence"] and one["case_id"], "somebody has to look at the device"
            else:
                assert one["case_id"] is None, "a loss is for maintenance: an event without a case"
        assert told[f"{PLUG} 2.1 video_loss"]["attributes"]["reason_code"] == "camera.refused"
        assert told[f"{FROZE} 2.1 video_loss"]["attributes"]["reason_code"] == "camera.stalled"
        faults = {name: town.camera(name)["health"]["faults"] for name in names}
        assert faults == {
            PLUG: ["health.video_lost"],
            FROZE: ["health.video_lost"],
            BLACK: [],
            STILL: [],
            LATE: ["health.clock_off"],
            WELL: [],
        }
        history = town.get(f"cameras/{PLUG}/health")
        assert {change["state"] for change in history["changes"]} >= {"live", "refused"}
        assert history["streams"][0]["points"], "a row a minute"
        for camera in FAULTS:
            simulator.clear(camera)
        until(lambda: all(one["state"] == "closed" for one in events().values()), 60, "all are over")
        assert {one["attributes"]["closed_because"] for one in events().values()} == {"cleared"}
        assert set(events()) == expected
        assert town.stop() == 0
