"""/metrics: Prometheus families built anew for each scrape from the health snapshot, the spools and the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from command.web.camera_health import by_camera, main_stream
from command.web.state import PartHealth, SpoolDepth
from ingest.health import CameraState, StreamHealth


@dataclass(frozen=True)
class Stored:
    """Counts that only the database knows; None while it is away."""

    events: int
    open_cases: int
    unconfirmed_tasks: int
    outbox_open: int
    dead_letters: int


@dataclass(frozen=True, eq=False)  # a registry keys its collectors by identity
class Scrape(Collector):
    """One moment's numbers."""

    health: Sequence[StreamHealth]
    spools: Sequence[SpoolDepth]
    parts: Sequence[PartHealth]
    stored: Stored | None
    listeners: int
    resyncs: int

    def collect(self) -> Iterator[Metric]:
        yield from self._cameras()
        yield from self._streams()
        yield from self._waiting()
        up = GaugeMetricFamily("gridwatch_part_up", "Whether a part runs (1) or not (0)", labels=["part"])
        up.add_metric(["database"], float(self.stored is not None))
        for part in self.parts:
            up.add_metric([part.name], float(part.ok))
        yield up
        if self.stored is not None:
            yield from self._stored(self.stored)
        yield GaugeMetricFamily("gridwatch_live_listeners", "Clients of the live feed", value=self.listeners)
        yield CounterMetricFamily("gridwatch_live_resyncs", "Slow clients told to read again", value=self.resyncs)

    def _cameras(self) -> Iterator[Metric]:
        counts = dict.fromkeys(CameraState, 0)
        for streams in by_camera(self.health).values():
            stream = main_stream(streams)
            assert stream is not None
            counts[stream.state] += 1
        cameras = GaugeMetricFamily("gridwatch_cameras", "Cameras by the state of their main stream", labels=["state"])
        for state, count in counts.items():
            cameras.add_metric([state.value], count)
        yield cameras

    def _streams(self) -> Iterator[Metric]:
        labels = ["camera", "stream"]
        counters = {
            "frames": ("Access units received", "frames"),
            "received_bytes": ("Media bytes received", "bytes"),
            "lost_packets": ("RTP packets lost on the way", "lost_packets"),
            "gaps": ("Places where packets are missing", "gaps"),
            "reconnects": ("Sessions opened again", "reconnects"),
            "dropped_units": ("Access units that slow readers lost", "dropped_units"),
        }
        for name, (text, field) in counters.items():
            family = CounterMetricFamily(f"gridwatch_stream_{name}", text, labels=labels)
            for stream in self.health:
                family.add_metric([stream.camera_id, stream.stream], getattr(stream, field))
            yield family
        live_text = "1 while frames arrive and, where they are recorded, the newest footage is fresh"
        live = GaugeMetricFamily("gridwatch_stream_live", live_text, labels=labels)
        for stream in self.health:
            live.add_metric([stream.camera_id, stream.stream], float(stream.is_live))
        yield live
        yield from self._measures()
        faults = GaugeMetricFamily("gridwatch_stream_fault", "1 for each fault of a stream", labels=[*labels, "fault"])
        for stream in self.health:
            for fault in stream.faults:
                name = fault.code.removeprefix("health.")
                faults.add_metric([stream.camera_id, stream.stream, name], 1.0)
        yield faults

    def _measures(self) -> Iterator[Metric]:
        """What is measured of each stream; a stream of which it is unknown has no sample."""
        measures: dict[str, tuple[str, Callable[[StreamHealth], float | None]]] = {
            "fps": ("Frames a second over the last seconds", lambda one: one.fps),
            "bitrate_bps": ("Media bits a second over the last seconds", lambda one: one.bitrate_bps),
            "gop_seconds": ("Between the last two keyframes", lambda one: one.gop_s),
            "jitter_seconds": (
                "Smoothed deviation of arrivals from media time",
                lambda one: None if one.jitter_ms is None else one.jitter_ms / 1000,
            ),
            "clock_offset_seconds": ("The camera's clock minus the server's", lambda one: one.clock_offset_s),
            "last_frame_timestamp_seconds": (
                "When the newest frame was taken, Unix time",
                lambda one: None if one.last_frame_at is None else one.last_frame_at.timestamp(),
            ),
        }
        for name, (text, measure) in measures.items():
            family = GaugeMetricFamily(f"gridwatch_stream_{name}", text, labels=["camera", "stream"])
            for stream in self.health:
                if (value := measure(stream)) is not None:
                    family.add_metric([stream.camera_id, stream.stream], value)
            yield family

    def _waiting(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily("gridwatch_spool_rows", "Rows on disk that wait for the database", labels=["spool"])
        size = GaugeMetricFamily("gridwatch_spool_bytes", "Bytes on disk that wait for the database", labels=["spool"])
        for spool in self.spools:
            rows.add_metric([spool.name], spool.rows)
            size.add_metric([spool.name], spool.bytes)
        yield from (rows, size)

    def _stored(self, stored: Stored) -> Iterator[Metric]:
        for name, text, value in (
            ("events", "Events stored (planner's estimate above 10,000)", stored.events),
            ("cases_open", "Cases not yet closed or dismissed", stored.open_cases),
            ("tasks_unconfirmed", "Tasks whose person's device has not confirmed", stored.unconfirmed_tasks),
            ("outbox_open", "Messages that wait for a device", stored.outbox_open),
            ("dead_letters", "Spooled rows that the database refused", stored.dead_letters),
        ):
            yield GaugeMetricFamily(f"gridwatch_{name}", text, value=value)


def exposition(scrape: Scrape) -> bytes:
    """The text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(scrape)
    return generate_latest(registry)
