from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from runtime.errors import SourceError
from runtime.live import Stream
from runtime.sessions.ort import OrtStepSession
from runtime.sources.choose import open_source
from runtime.sources.images import ImageFolder
from tests.mini_bundle import write_mini_bundle
from tests.videos import moving_bar


def write_pictures(folder, names, *, height_px=48, width_px=64):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        picture = np.full((height_px, width_px, 3), 10 * number, np.uint8)
        assert cv2.imwrite(str(folder / name), picture)
    return folder


def test_pictures_come_in_natural_order_with_their_time(tmp_path):
    names = ["img_1.png", "img_2.png", "img_10.png", "img_100.png"]
    folder = write_pictures(tmp_path / "frames", names)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    with open_source(f"{folder}?fps=4") as source:
        frames = list(source)
    assert [int(frame.image_rgb[0, 0, 0]) for frame in frames] == [0, 10, 20, 30]
    assert [frame.stream_time_s for frame in frames] == [0.0, 0.25, 0.5, 0.75]
    assert (source.fps, source.is_live, source.counts.captured) == (4.0, False, 4)


def test_a_picture_that_cannot_be_read_is_left_out_and_its_time_passes(tmp_path, caplog):
    folder = write_pictures(tmp_path / "frames", [f"{n}.jpg" for n in range(6)])
    (folder / "1.jpg").write_bytes(b"")
    (folder / "2.jpg").write_bytes(b"\xff\xd8 cut")
    (folder / "3.jpg").unlink()
    (folder / "3.jpg").mkdir()
    with ImageFolder(folder, fps=10) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 4, 5]
    assert [frame.stream_time_s for frame in frames] == [0.0, 0.4, 0.5]
    assert source.unreadable == 3
    assert "3 pictures could not be read" in caplog.text


def test_a_picture_of_a_size_that_opencv_refuses_is_left_out(tmp_path):
    folder = write_pictures(tmp_path / "frames", ["0.png", "1.png", "2.png"])
    data = bytearray((folder / "1.png").read_bytes())
    data[16:24] = struct.pack(">II", 65_000, 65_000)  # the header's width and height
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "1.png").write_bytes(data)
    with ImageFolder(folder, fps=10) as source:
        assert [frame.index for frame in source] == [0, 2]
    assert source.unreadable == 1


def test_sizes_may_differ_and_colour_is_rgb(tmp_path):
    folder = write_pictures(tmp_path / "frames", ["0.png"])
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 200
    assert cv2.imwrite(str(folder / "1.png"), red)
    assert cv2.imwrite(str(folder / "2.png"), np.full((8, 9), 77, np.uint8))
    with ImageFolder(folder, fps=10) as source:
        shapes = [(frame.image_rgb.shape, frame.image_rgb[0, 0].tolist()) for frame in source]
    assert shapes == [
        ((48, 64, 3), [0, 0, 0]), ((20, 30, 3), [200, 0, 0]), ((8, 9, 3), [77, 77, 77]),
    ]  # fmt: skip


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(str(tmp_path))
    folder = write_pictures(tmp_path / "frames", ["0.png"])
    (folder / "0.png").write_bytes(b"broken")
    with pytest.raises(SourceError, match="none of 1 pictures can be read"):
        list(open_source(f"{folder}?fps=5"))
    with pytest.raises(SourceError, match="No such file"):
        ImageFolder(tmp_path / "missing")


def test_without_a_rate_the_one_that_is_used_is_said(tmp_path, caplog):
    folder = write_pictures(tmp_path / "frames", ["0.png", "1.png"])
    with open_source(str(folder)) as source:
        assert [frame.stream_time_s for frame in source] == [0.0, 0.04]
    assert "25 pictures a second; say ?fps=" in caplog.text


def test_a_folder_whose_name_is_no_unicode_has_a_name_to_print(tmp_path):
    folder = tmp_path / "r\udce9el"  # "réel" in Latin-1
    write_pictures(tmp_path / "plain", ["0.png"]).rename(folder)
    with open_source(f"{folder}?fps=4") as source:
        assert source.name == f"{tmp_path}/r\\udce9el"
        assert len(list(source)) == 1


def test_realtime_paces_pictures_and_stop_ends_them(tmp_path):
    folder = write_pictures(tmp_path / "frames", [f"{n}.png" for n in range(5)])
    began_s = time.monotonic()
    with open_source(f"{folder}?fps=20", realtime=True) as source:
        assert len(list(source)) == 5
    assert time.monotonic() - began_s >= 0.2
    with open_source(f"{folder}?fps=20") as source:
        for _ in source:
            source.stop()
    assert source.counts.captured == 1


def test_a_folder_gives_the_same_decisions_twice(tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(moving_bar(40)):
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    runs = []
    for _ in range(2):
        with OrtStepSession(bundle) as session, open_source(f"{folder}?fps=20") as source:
            runs.append(
                [
                    (d.tick, d.stream_time_s, d.probs.tobytes())
                    for d in Stream(bundle, source, session)
                ]
            )
    assert runs[0] == runs[1]
    assert len(runs[0]) == 8


def test_optical_flow_beside_pictures_is_left_out_and_alone_it_is_read(tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    for name in ("flow_x_1.png", "flow_y_1.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    assert len(list(ImageFolder(tmp_path, fps=10))) == 2
    cv2.imwrite(str(tmp_path / "img_1.png"), picture)
    assert len(list(ImageFolder(tmp_path, fps=10))) == 1
