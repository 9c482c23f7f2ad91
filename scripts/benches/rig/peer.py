"""One peer as a process: the same cameras, pulled the way others do. Driven by `rig.peers`.

    python -m rig.peer KIND FOLDER < urls        (one URL a line, an empty line ends the list)

Says `{"ready": true}` when every camera has given something, then answers each line on its standard input with its
counters, and ends when that is closed. Each peer is set up the way that costs it least: no probing beyond what is
needed, one decoding thread a camera, no conversion of colours.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

OWN = ("gridwatch_ingest", "gridwatch_recording")
AV_OPTIONS = {
    "rtsp_transport": "tcp",
    "analyzeduration": "1",
    "probesize": "5000",
    "fpsprobesize": "0",
}
SEGMENT_S = 60
OPENED_AT_ONCE = 8


class Peer:
    """Counts units of work by camera: packets (PyAV), pictures (OpenCV), bytes of pictures or files (ffmpeg)."""

    def __init__(self, urls: list[str], folder: Path) -> None:
        self.urls = urls
        self.folder = folder
        self.units = [0] * len(urls)
        self.failed: dict[int, str] = {}
        self._opening = threading.Semaphore(OPENED_AT_ONCE)

    def start(self) -> None:
        """Pull every camera, a thread each."""
        for index, url in enumerate(self.urls):
            threading.Thread(target=self._guarded, args=(index, url), daemon=True).start()

    def _guarded(self, index: int, url: str) -> None:
        try:
            self.pull(index, url)
            self.failed[index] = "ended"
        except Exception as error:  # said to the bench, which counts the camera as not held
            self.failed[index] = f"{type(error).__name__}: {error}"

    def pull(self, index: int, url: str) -> None:
        """Until the stream ends."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether every camera has given something."""
        return all(self.units)

    def counters(self) -> dict[str, Any]:
        """Asked by the bench."""
        return {"units": sum(self.units), "failed": list(self.failed.values())[:3], "failures": len(self.failed)}


class PyavThreads(Peer):
    """Demuxing by libav, a thread a camera."""

    def pull(self, index: int, url: str) -> None:
        import av

        with self._opening:
            container = av.open(url, options=AV_OPTIONS, timeout=(20, 20))
        with container:
            for packet in container.demux(video=0):
                if packet.size:
                    self.units[index] += 1


class PyavRemux(Peer):
    """The same, muxed into fragmented MP4, a new file at the first keyframe after a minute."""

    def pull(self, index: int, url: str) -> None:
        import av

        with self._opening:
            container = av.open(url, options={**AV_OPTIONS, "analyzeduration": "500000"}, timeout=(20, 20))
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        output: Any = None
        began, number, track = 0.0, 0, None
        with container:
            source = container.streams.video[0]
            for packet in container.demux(source):
                if not packet.size or (output is None and not packet.is_keyframe) or packet.dts is None:
                    continue
                time_s = float(packet.dts * packet.time_base)
                if output is None or (packet.is_keyframe and time_s - began >= SEGMENT_S):
                    if output is not None:
                        output.close()
                    path = self.folder / f"{os.getpid()}-{index:03d}-{number:04d}.mp4"
                    output = av.open(str(path), "w", options=flags)
                    track = output.add_stream_from_template(source)
                    began, number = time_s, number + 1
                packet.stream = track
                output.mux(packet)
                self.units[index] += 1


class Opencv(Peer):
    """cv2.VideoCapture a camera: what a user would write."""

    def pull(self, index: int, url: str) -> None:
        import cv2

        with self._opening:
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
        while capture.grab():
            capture.retrieve()
            self.units[index] += 1


class _Ffmpeg(Peer):
    """An ffmpeg process a camera. Its CPU is counted, that of this process is not."""

    def __init__(self, urls: list[str], folder: Path) -> None:
        super().__init__(urls, folder)
        self._processes: list[subprocess.Popen[bytes]] = []

    def command(self, index: int, url: str) -> list[str]:
        """Its arguments."""
        raise NotImplementedError

    def run(self, index: int, url: str) -> subprocess.Popen[bytes]:
        """Start it."""
        with self._opening:
            return subprocess.Popen(
                self.command(index, url), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )


class FfmpegProcesses(_Ffmpeg):
    """Decoding, five pictures a second as raw YUV into a pipe."""

    def command(self, index: int, url: str) -> list[str]:
        return [
            *("ffmpeg", "-nostdin", "-loglevel", "error", "-threads", "1", "-rtsp_transport", "tcp", "-i", url),
            *("-an", "-r", "5", "-threads", "1", "-f", "rawvideo", "pipe:1"),
        ]

    def pull(self, index: int, url: str) -> None:
        process = self.run(index, url)
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 20):
            self.units[index] += len(chunk)


class FfmpegCopy(_Ffmpeg):
    """`ffmpeg -c copy -f segment`: recording without decoding."""

    def command(self, index: int, url: str) -> list[str]:
        return [
            *("ffmpeg", "-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp", "-i", url, "-an", "-c", "copy"),
            *("-f", "segment", "-segment_time", str(SEGMENT_S), "-reset_timestamps", "1", "-segment_format", "mp4"),
            *("-segment_format_options", "movflags=frag_keyframe+empty_moov+default_base_moof"),
            str(self.folder / f"{os.getpid()}-{index:03d}-%04d.mp4"),
        ]

    def pull(self, index: int, url: str) -> None:
        self.run(index, url).wait()

    def is_ready(self) -> bool:
        return all(self._bytes(index) > 1000 for index in range(len(self.urls)))

    def _bytes(self, index: int) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"{os.getpid()}-{index:03d}-*.mp4"))

    def counters(self) -> dict[str, Any]:
        units = sum(self._bytes(index) for index in range(len(self.urls)))
        return {**super().counters(), "units": units}


PEERS: dict[str, type[Peer]] = {
    "pyav_threads": PyavThreads,
    "pyav_remux": PyavRemux,
    "opencv": Opencv,
    "ffmpeg_processes": FfmpegProcesses,
    "ffmpeg_copy": FfmpegCopy,
}


def answer(peer: Peer) -> None:
    """Tell counters until the bench has heard enough."""
    ready = threading.Event()
    while not ready.wait(0.1) and not peer.is_ready() and not peer.failed:
        pass
    print(json.dumps({"ready": not peer.failed, **peer.counters()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(peer.counters()), flush=True)


async def own(urls: list[str], folder: Path | None) -> None:
    """Gridwatch's own links: sessions, access units, the last GOP; with a folder also the recorder behind them."""
    from ingest.clock import SystemClock
    from ingest.connect_gate import ConnectGate
    from ingest.link import CameraLink
    from ingest.recording.recorder import RecordedStream, Recorder
    from ingest.recording_settings import Recording
    from ingest.secret import SecretUrl

    gate = ConnectGate()
    clock = SystemClock()
    links = [
        CameraLink(f"cam-{number:03d}", "main", SecretUrl(url), clock=clock, gate=gate, transport="tcp")
        for number, url in enumerate(urls, 1)
    ]
    recorder = Recorder(
        [RecordedStream(link.camera_id, "main", link.fanout) for link in links] if folder else [],
        Recording(),
        emit_fact=lambda fact: None,
        clock=clock,
        home=folder or Path(),
        zone=ZoneInfo("UTC"),
    )
    if folder:
        await recorder.start()
    for link in links:
        link.start()

    def counters() -> dict[str, Any]:
        healths = [link.health() for link in links]
        lost = sum(health.lost_packets for health in healths)
        return {"units": sum(health.frames for health in healths), "failed": [], "failures": 0, "lost": lost}

    while not all(link.health().frames for link in links):  # noqa: ASYNC110 - asked as the other peers are
        await asyncio.sleep(0.1)
    print(json.dumps({"ready": True, **counters()}), flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(counters()), flush=True)
    await asyncio.gather(*(link.stop() for link in links))
    if folder:
        await recorder.stop()


def main() -> None:
    """Read the URLs, pull, answer."""
    from command.processes.child import die_with_parent

    die_with_parent()
    kind, folder = sys.argv[1], Path(sys.argv[2])
    urls = []
    while url := sys.stdin.readline().strip():
        urls.append(url)
    if kind in OWN:
        import uvloop

        uvloop.run(own(urls, folder if kind == "gridwatch_recording" else None))
        return
    peer = PEERS[kind](urls, folder)
    peer.start()
    answer(peer)
    os._exit(0)  # threads sit in libav's reads; there is nothing to save


if __name__ == "__main__":
    main()
