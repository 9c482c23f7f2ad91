"""gst-rtsp-server with a folder's films; run by the distribution's Python: `gst_server.py FOLDER LOCKED_PORT PORT`.

PORT has /h264, /h265 and /sound (H.264 with AAC); LOCKED_PORT has /locked (H.264, Digest login operator:s3cret).
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

FOLDER, LOCKED_PORT, PORT = sys.argv[1:]
H264 = "qtdemux name=d d. ! queue ! h264parse ! rtph264pay name=pay0 pt=96"
OPEN = {
    "h264": f"( filesrc location={FOLDER}/h264.mp4 ! {H264} )",
    "h265": f"( filesrc location={FOLDER}/h265.mp4 ! qtdemux ! h265parse ! rtph265pay name=pay0 pt=96 )",
    "sound": f"( filesrc location={FOLDER}/sound.mp4 ! {H264} d. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )",
}


def serve(port: str, launches: dict[str, str], role: str | None) -> GstRtspServer.RTSPServer:
    server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
    for name, launch in launches.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch)
        if role is not None:
            allowed = "media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
            factory.add_role_from_structure(Gst.Structure.from_string(f"{role}, {allowed}")[0])
        server.get_mount_points().add_factory("/" + name, factory)
    return server


def main() -> None:
    Gst.init(None)
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "operator")
    auth.add_digest("operator", "s3cret", token)
    locked = serve(LOCKED_PORT, {"locked": OPEN["h264"]}, "operator")
    locked.set_auth(auth)
    locked.attach(None)
    serve(PORT, OPEN, None).attach(None)
    GLib.MainLoop().run()


main()
