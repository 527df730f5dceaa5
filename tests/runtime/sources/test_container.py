from __future__ import annotations

import struct

import pytest

from runtime.sources.container import missing_bytes
from tests.videos import bikes_path, moving_bar, write_video


def test_whole_files_miss_nothing(tmp_path):
    pictures = moving_bar(8)
    assert missing_bytes(bikes_path()) == 0
    for name, codec in (("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.avi", "mpeg4")):
        assert missing_bytes(write_video(tmp_path / name, pictures, codec=codec)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_missing_bytes_are_counted(tmp_path, name, codec):
    whole = write_video(tmp_path / name, moving_bar(8), codec=codec, front_header=name == "a.mp4")
    data = whole.read_bytes()
    for lost in (1, 100):
        whole.write_bytes(data[:-lost])
        assert missing_bytes(whole) == lost
    whole.write_bytes(data[: len(data) // 2])
    assert missing_bytes(whole) > 0


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_missing_bytes_of_matroska_are_counted(tmp_path, name):
    whole = write_video(tmp_path / name, moving_bar(8), file_format="matroska")
    data = whole.read_bytes()
    assert missing_bytes(whole) == 0
    for lost in (1, 100, len(data) // 2):
        whole.write_bytes(data[:-lost])
        assert missing_bytes(whole) == lost


def test_matroska_that_is_still_being_written_counts_as_whole(tmp_path):
    whole = write_video(tmp_path / "a.mkv", moving_bar(8), file_format="matroska")
    data = whole.read_bytes()
    start = data.index(bytes.fromhex("18538067")) + 4
    for unknown in (b"\xff" + b"\xec\x86" + bytes(5), b"\x01" + b"\xff" * 7):
        whole.write_bytes(data[:start] + unknown + data[start + 8 : -100])
        assert missing_bytes(whole) == 0
    for end in (5, start - 4, start):
        whole.write_bytes(data[:end])
        assert missing_bytes(whole) == 0


def test_a_box_may_have_a_64_bit_size(tmp_path):
    path = tmp_path / "large.mp4"
    path.write_bytes(struct.pack(">I4sI", 12, b"ftyp", 0) + struct.pack(">I4sQ", 1, b"mdat", 2**33))
    assert missing_bytes(path) == 12 + 2**33 - path.stat().st_size


def test_a_last_box_may_reach_to_the_end(tmp_path):
    path = tmp_path / "open.mp4"
    path.write_bytes(struct.pack(">I4sI", 12, b"ftyp", 0) + struct.pack(">I4s", 0, b"mdat") + b"x")
    assert missing_bytes(path) == 0


def test_containers_without_sizes_count_as_whole(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"abc")
    assert missing_bytes(path) == 0
