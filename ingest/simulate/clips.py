"""The clip cache: everything is encoded once at set-up by `ensure_clips`; a run only reads.

A clip is `<scene>-<profile>-<hash>.mp4` with its facts in a `.json` beside it. Both are written under a temporary name
and renamed, the JSON last: a clip is there when its JSON is there. A lock file keeps two set-ups from
doing the same work.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import av
import cv2
import numpy as np

from ingest.errors import GridwatchError
from ingest.simulate.clip import Clip, load_clip
from ingest.simulate.recipe import TEST_SET, Profile, Recipe
from ingest.simulate.scenes import Footage, make_scene

Progress = Callable[[float, float], None]  # work done, all work; both in the same arbitrary unit


def default_cache_dir() -> Path:
    """`GRIDWATCH_CLIPS`, else `gridwatch/clips` in the user's cache folder."""
    if given := os.environ.get("GRIDWATCH_CLIPS"):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridwatch" / "clips"


class ClipLibrary:
    """The clips of a run, loaded on first use. Knows which profiles and scenes there are."""

    def __init__(self, folder: Path, recipes: Iterable[Recipe]) -> None:
        self.folder = folder
        self._recipes: dict[tuple[str, str], Recipe] = {
            (recipe.scene, recipe.profile.name): recipe for recipe in recipes
        }
        self._loaded: dict[tuple[str, str], Clip] = {}

    def recipe(self, scene: str, profile: str) -> Recipe | None:
        """The recipe for a scene and profile; for variants that exist in one scene only, that one."""
        if found := self._recipes.get((scene, profile)):
            return found
        others = (r for (name, of), r in self._recipes.items() if of == profile and name not in ("still", "black"))
        return None if scene in ("still", "black") else next(others, None)

    def profiles(self) -> list[Profile]:
        """All profiles that there are clips for."""
        return list({recipe.profile.name: recipe.profile for recipe in self._recipes.values()}.values())

    def get(self, scene: str, profile: str) -> Clip | None:
        """The clip for a scene and profile (see `recipe`), or None.

        Raises:
            GridwatchError: simulate.clip_unreadable; the cache was damaged after set-up.
        """
        recipe = self.recipe(scene, profile)
        if recipe is None:
            return None
        key = recipe.scene, recipe.profile.name
        if key not in self._loaded:
            self._loaded[key] = _read(self.folder / recipe.file_name)
        return self._loaded[key]

    def load_all(self) -> None:
        """Read every clip now, so that no camera waits for a disk later."""
        for scene, profile in self._recipes:
            self.get(scene, profile)


@lru_cache(maxsize=64)
def _read(path: Path) -> Clip:
    try:
        return load_clip(path)
    except (OSError, ValueError, KeyError, av.error.FFmpegError) as error:
        raise GridwatchError("simulate.clip_unreadable", path=path, why=error) from error


def open_clips(recipes: Iterable[Recipe] = TEST_SET, cache_dir: Path | None = None) -> ClipLibrary:
    """The library of clips that a set-up has already encoded.

    Raises:
        GridwatchError: simulate.clips_missing; a run never encodes.
    """
    folder = cache_dir or default_cache_dir()
    wanted = tuple(recipes)
    missing = [recipe for recipe in wanted if not _is_there(folder, recipe)]
    if missing:
        raise GridwatchError("simulate.clips_missing", count=len(missing), folder=folder)
    return ClipLibrary(folder, wanted)


def ensure_clips(
    recipes: Iterable[Recipe] = TEST_SET, cache_dir: Path | None = None, progress: Progress | None = None
) -> ClipLibrary:
    """Encode what is not in the cache yet, in two threads, and return the library. Blocks: seconds to a minute.

    Raises:
        GridwatchError: simulate.cache_unwritable.
    """
    folder = cache_dir or default_cache_dir()
    wanted = tuple(recipes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(not _is_there(folder, recipe) for recipe in wanted):
            with _locked(folder / ".lock"):
                _encode_missing(folder, wanted, progress)
    except OSError as error:
        raise GridwatchError("simulate.cache_unwritable", folder=folder, why=error.strerror or error) from error
    return ClipLibrary(folder, wanted)


def _is_there(folder: Path, recipe: Recipe) -> bool:
    return (folder / recipe.file_name).with_suffix(".json").exists()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _encode_missing(folder: Path, recipes: tuple[Recipe, ...], progress: Progress | None) -> None:
    missing = [recipe for recipe in recipes if not _is_there(folder, recipe)]
    if not missing:
        return
    total, done, lock = sum(recipe.cost for recipe in missing), 0.0, Lock()
    if progress:
        progress(0.0, total)
    footage = Footage.read() if any(recipe.scene not in ("drawn", "black") for recipe in missing) else Footage.none()

    def advance(work: float) -> None:
        nonlocal done
        with lock:
            done += work
            if progress:
                progress(min(done, total), total)

    cv2.setNumThreads(1)
    missing.sort(key=lambda recipe: -recipe.cost)
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode") as pool:
        for finished in [pool.submit(_encode, folder, recipe, footage, advance) for recipe in missing]:
            finished.result()


def _encode(folder: Path, recipe: Recipe, footage: Footage, advance: Callable[[float], None]) -> None:
    profile = recipe.profile
    times_s = recipe.frame_times_s()
    scene = make_scene(recipe.scene, footage, profile.width, profile.height)
    target = folder / recipe.file_name
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx265" if profile.codec == "hevc" else "libx264", rate=profile.fps)
        stream.width, stream.height, stream.pix_fmt = profile.width, profile.height, "yuv420p"
        stream.bit_rate = profile.bitrate_bps
        stream.codec_context.time_base = Fraction(1, 90000)
        stream.options = _encoder_options(profile)
        keyframe_every_s = profile.gop_s
        next_keyframe_s = 0.0
        share = recipe.cost / len(times_s)
        for number, time_s in enumerate(times_s):
            i420 = np.asarray(cv2.cvtColor(scene.picture(time_s), cv2.COLOR_BGR2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(i420, format="yuv420p")
            frame.pts, frame.time_base = round(time_s * 90000), Fraction(1, 90000)
            if time_s >= next_keyframe_s - 1e-6:
                frame.pict_type = av.video.frame.PictureType.I
                next_keyframe_s += keyframe_every_s
            for packet in stream.encode(frame):
                container.mux(packet)
            if number % 25 == 24:
                advance(share * 25)
        for packet in stream.encode():
            container.mux(packet)
    advance(share * (len(times_s) % 25))
    facts = {
        "scene": recipe.scene,
        "profile": profile.name,
        "codec": profile.codec,
        "width": profile.width,
        "height": profile.height,
        "fps": float(profile.fps),
        "gop_s": profile.gop_s,
        "b_frames": profile.b_frames,
        "frames": len(times_s),
        "duration_90k": round(recipe.duration_s * 90000),
        "frame_times_s": [round(time_s, 4) for time_s in times_s],
        "ground_truth": scene.ground_truth(float(profile.fps), recipe.duration_s),
    }
    _write(target, encoded.getvalue())
    _write(target.with_suffix(".json"), json.dumps(facts).encode())


def _encoder_options(profile: Profile) -> dict[str, str]:
    """GOP by forced keyframes only, closed GOPs, one thread (the pool has more), a camera's constant rate."""
    kbps = profile.bitrate_bps // 1000
    if profile.codec == "hevc":
        params = (
            f"log-level=error:pools=1:frame-threads=1:keyint=-1:scenecut=0:open-gop=0:bframes={profile.b_frames}:"
            f"vbv-maxrate={kbps}:vbv-bufsize={kbps * 2}:repeat-headers=1:no-info=1"
        )
        return {"preset": profile.preset, "x265-params": params, "forced-idr": "1"}
    params = f"keyint=infinite:scenecut=0:open-gop=0:bframes={profile.b_frames}:b-adapt=0:repeat-headers=1"
    return {
        "preset": profile.preset,
        "threads": "1",
        "forced-idr": "1",
        "maxrate": str(profile.bitrate_bps),
        "bufsize": str(profile.bitrate_bps * 2),
        "x264-params": params,
    }


def _write(path: Path, body: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as handle:
        handle.write(body)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
