"""A real RTSP server for tests; run by the system's Python, which has GObject.

    /usr/bin/python3 tests/rtsp_server.py VIDEO PORT [USER:PASSWORD]

Serves a video as rtsp://127.0.0.1:PORT/video, not transcoded: an MP4 or MPEG-TS with H.264, or an
AVI with Motion JPEG. Every client starts at its beginning. Prints "ready" when it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  after require_version

H264 = "h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96"
PIPELINES = {
    "mp4": f"filesrc name=file ! qtdemux ! {H264}",
    "ts": f"filesrc name=file ! tsdemux ! {H264}",
    "avi": "filesrc name=file ! avidemux ! jpegparse ! rtpjpegpay name=pay0 pt=26",
}


class VideoFactory(GstRtspServer.RTSPMediaFactory):
    """Makes the pipeline for one client; the path is set as a property, not pasted into text."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def do_create_element(self, url):
        """Build file, demuxer, parser and payloader."""
        pipeline = Gst.parse_launch(PIPELINES[self._path.rpartition(".")[2]])
        pipeline.get_by_name("file").set_property("location", self._path)
        return pipeline


def ask_for_password(server, factory, login):
    """Let one user in, by Digest authentication, and nobody else."""
    user, _, password = login.partition(":")
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(2)  # GstRtsp.RTSPAuthMethod.DIGEST
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, user)
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.new_from_string(
            f"{user}, {GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS}=true, "
            f"{GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT}=true"
        )
    )


def main():
    """Serve until killed."""
    path, port = sys.argv[1], sys.argv[2]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = VideoFactory(path)
    if len(sys.argv) > 3:
        ask_for_password(server, factory, sys.argv[3])
    server.get_mount_points().add_factory("/video", factory)
    if server.attach(None) == 0:
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)  # noqa: T201  the parent waits for it
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
