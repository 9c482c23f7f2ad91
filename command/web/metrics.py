"""/metrics: Prometheus families built anew for each scrape from the health snapshot, the spools and the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            "reconnects": ("Sessions opened again", "reconnects"),
            "dropped_units": ("Access units that slow readers lost", "dropped_units"),
        }
        for name, (text, field) in counters.items():
            family = CounterMetricFamily(f"gridwatch_stream_{name}", text, labels=labels)
            for stream in self.health:
                family.add_metric([stream.camera_id, stream.stream], getattr(stream, field))
            yield family
        live = GaugeMetricFamily("gridwatch_stream_live", "1 while frames arrive", labels=labels)
        for stream in self.health:
            live.add_metric([stream.camera_id, stream.stream], float(stream.state is CameraState.LIVE))
        yield live

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
