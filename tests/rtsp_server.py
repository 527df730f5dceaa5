"""A real RTSP server for tests; run by the system's Python, which has GObject.

    /usr/bin/python3 tests/rtsp_server.py VIDEO PORT

Serves an H.264 MP4, not transcoded, as rtsp://127.0.0.1:PORT/video; every client starts at its
beginning. Prints "ready" when it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  after require_version


class VideoFactory(GstRtspServer.RTSPMediaFactory):
    """Makes the pipeline for one client; the path is set as a property, not pasted into text."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def do_create_element(self, url):
        """Build file, demuxer, parser and payloader."""
        pipeline = Gst.parse_launch(
            "filesrc name=file ! qtdemux ! h264parse config-interval=-1 "
            "! rtph264pay name=pay0 pt=96"
        )
        pipeline.get_by_name("file").set_property("location", self._path)
        return pipeline


def main():
    """Serve until killed."""
    path, port = sys.argv[1], sys.argv[2]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/video", VideoFactory(path))
    if server.attach(None) == 0:
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)  # noqa: T201  the parent waits for it
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
