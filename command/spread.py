"""Which worker gets which camera: by cost, and moving as few as possible when the town changes.

A moved camera is a reconnected camera, so those that have a worker keep it. New ones go to the worker with the least
to do, dearest first (longest processing time first: the loads then differ by at most one camera). Only when cameras
that went have left one worker with much more than the others are some moved, one at a time, while that helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingest.camera import Camera

MAX_WORKERS = 8
TOLERANCE = 0.25  # in a running town, where a move is a reconnect

# Costs in units of pulling one 1080p stream of 3 Mbit/s.
_USUAL_BPS = {"main": 3_000_000.0, "sub": 400_000.0}
_A_STREAM = 0.15  # timers and state, however small the stream
_A_LOOK = {"main": 2.0, "sub": 1.0}  # decoding and judging one keyframe every few seconds


def default_workers(cores: int) -> int:
    """One worker up to two cores, else one for each two: the other cores are for looks, database, API and viewers."""
    return min(MAX_WORKERS, max(1, cores // 2))


def camera_cost(camera: Camera, bitrates_bps: Mapping[str, float] | None = None) -> float:
    """What a camera costs a worker: its streams by bitrate ("c-001/main": measured, else usual) and its looks."""
    cost = 0.0
    for stream in ("main", "sub") if camera.sub is not None else ("main",):
        bitrate_bps = (bitrates_bps or {}).get(f"{camera.id}/{stream}") or _USUAL_BPS[stream]
        cost += _A_STREAM + (1 - _A_STREAM) * bitrate_bps / _USUAL_BPS["main"]
    return cost + _A_LOOK["main" if camera.sub is None else "sub"]


def spread(
    costs: Mapping[str, float],
    workers: Sequence[str],
    earlier: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, str]:
    """Camera id to worker for every key of `costs` (positive). `earlier` is what held before, possibly for others.

    `tolerance` is the imbalance, as a part of the mean load, that is not worth a move; one camera's cost never is.
    The same arguments give the same answer, whatever the order of the mappings.
    """
    kept = {camera: worker for camera, worker in (earlier or {}).items() if camera in costs and worker in workers}
    loads = dict.fromkeys(workers, 0.0)
    for camera in sorted(kept):
        loads[kept[camera]] += costs[camera]
    found = dict(kept)
    for camera in sorted(costs.keys() - kept.keys(), key=lambda one: (-costs[one], one)):
        worker = min(workers, key=lambda one: loads[one])
        found[camera] = worker
        loads[worker] += costs[camera]
    while (move := _helpful_move(costs, found, loads, tolerance)) is not None:
        camera, worker = move
        loads[found[camera]] -= costs[camera]
        loads[worker] += costs[camera]
        found[camera] = worker
    return dict(sorted(found.items()))


def _helpful_move(
    costs: Mapping[str, float], found: Mapping[str, str], loads: Mapping[str, float], tolerance: float
) -> tuple[str, str] | None:
    """(camera, to which worker) if one worker has too much; the camera that comes nearest to levelling the two."""
    most, least = max(loads, key=lambda one: loads[one]), min(loads, key=lambda one: loads[one])
    surplus = loads[most] - loads[least]
    mean = sum(loads.values()) / len(loads)
    dearest = max(costs.values(), default=0.0)
    if surplus <= max(tolerance * mean, dearest):
        return None
    movable = [camera for camera in sorted(costs) if found[camera] == most]  # each costs less than the surplus
    return min(movable, key=lambda one: abs(surplus / 2 - costs[one])), least
