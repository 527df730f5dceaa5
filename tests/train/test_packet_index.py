"""What the packets of a file tell, and when they are not believed."""

import av
import numpy as np
import pytest

from tests.videos import Coding, drifting_pattern, encode
from train.data.packet_index import PacketIndex, index_by_decoding, index_from_packets
from train.data.video_reader import VideoReader
from train.data.video_stream import VideoFile

GROUPS = {"g": "12", "bf": "2", "sc_threshold": "0"}


def index_of(path) -> PacketIndex:
    found = index_from_packets(VideoFile(path))
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_keyframes_are_where_a_group_starts(tmp_path, name):
    path = encode(tmp_path, drifting_pattern(30), Coding(name, "libx264", options=GROUPS))
    index = index_of(path)
    assert index.keys.tolist() == [0, 12, 24]
    assert index.key_stamps[:, 0].tolist() == index.pts[index.keys].tolist()
    assert (index.key_stamps[1:, 1] < index.key_stamps[1:, 0]).all(), "B-frames come in between"
    assert [index.key_before(frame) for frame in (0, 11, 12, 13, 29)] == [0, 0, 1, 1, 2]
    assert (np.diff(index.pts) > 0).all()


def test_packets_and_decoding_agree(tmp_path):
    path = encode(tmp_path, drifting_pattern(30), Coding("a.mp4", "libx264", options=GROUPS))
    listed, decoded = index_of(path), index_by_decoding(VideoFile(path))
    assert np.array_equal(listed.times_s, decoded.times_s)
    assert (listed.facts, listed.frame_s) == (decoded.facts, decoded.frame_s)
    assert listed.from_packets
    assert not decoded.from_packets


@pytest.mark.parametrize("num_frames", [1, 2])
@pytest.mark.parametrize(("name", "stamped"), [("a.mp4", True), ("a.h264", False)])
def test_very_short_films(tmp_path, num_frames, name, stamped):
    pictures = drifting_pattern(num_frames)
    path = encode(tmp_path, pictures, Coding(name, "libx264", fps=20))
    with VideoReader(path) as reader:
        assert reader.index.from_packets == stamped
        assert np.allclose(reader.times_s, np.arange(num_frames) / 20)
        assert reader.frame_s == pytest.approx(0.05 * (num_frames - 1))
        assert reader.index.facts.fps == 20
        assert len(reader.frames(np.arange(num_frames))) == num_frames


def test_a_time_that_comes_twice_is_counted_on(tmp_path):
    """Frames 0, 0, 1, 2, ...: recorders write the first time twice."""
    path = tmp_path / "twice.mkv"
    source = encode(tmp_path, drifting_pattern(20), Coding("a.avi", "mjpeg", "yuvj420p"))
    with av.open(str(source)) as container, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = max(0, number - 1)
                packet.stream = stream
                copy.mux(packet)
    assert index_from_packets(VideoFile(path)) is None
    with VideoReader(path) as reader, VideoReader(source) as original:
        assert len(reader.times_s) == 20
        assert (np.diff(reader.times_s) > 0).all()
        numbers = np.array([0, 1, 2, 19])
        pairs = zip(reader.frames(numbers), original.frames(numbers), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
