"""GStreamer's rtspsrc as a client; run by the distribution's Python: `gst_player.py URL tcp|udp CODEC FRAMES`.

Prints the access units as hex lines, as many as asked for, and ends.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401

URL, PROTOCOL, CODEC, FRAMES = sys.argv[1:]


def main() -> int:
    Gst.init(None)
    caps = f"video/x-{CODEC},stream-format=byte-stream,alignment=au"
    pipeline = Gst.parse_launch(
        f"rtspsrc name=source protocols={PROTOCOL} latency=100 ! rtp{CODEC}depay ! {CODEC}parse ! {caps} ! "
        "appsink name=sink sync=false max-buffers=0"
    )
    pipeline.get_by_name("source").set_property("location", URL)
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    for _ in range(int(FRAMES)):
        sample = sink.try_pull_sample(10 * Gst.SECOND)
        if sample is None:
            message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
            print(message.parse_error() if message else "no picture for 10 s", file=sys.stderr)
            return 1
        buffer = sample.get_buffer()
        print(buffer.extract_dup(0, min(buffer.get_size(), 400)).hex())
    pipeline.set_state(Gst.State.NULL)
    return 0


sys.exit(main())
