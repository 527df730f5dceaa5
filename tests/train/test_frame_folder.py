"""Recordings as folders of numbered pictures."""

import cv2
import numpy as np
import pytest

from runtime.errors import DataError
from train.data.decode import open_frames, probe
from train.data.frame_folder import FrameFolder
from train.data.packet_index import VideoFacts


def write(folder, names, size=(12, 16)):
    """Pictures, the k-th of them all 10·k grey."""
    folder.mkdir(exist_ok=True)
    for k, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), np.full((*size, 3), 10 * k, np.uint8))
    return folder


def levels(reader, numbers):
    return [int(picture[0, 0, 0]) for picture in reader.frames(np.array(numbers))]


@pytest.mark.parametrize(
    "template",
    [
        "{:05d}.jpg",
        "{:06d}.jpg",
        "img_{:05d}.jpg",
        "image_{:05d}.jpg",
        "frame_{:010d}.jpg",
        "S01_take2_{:d}.png",
        "{}.PNG",
        "000{:d}.bmp",
        "video-{:04d}.JPEG",
    ],
)
def test_names_are_read_off_the_folder(tmp_path, template):
    folder = write(tmp_path / "clip", [template.format(n) for n in range(1, 13)])
    with open_frames(folder, fps=12.0) as reader:
        assert np.allclose(reader.times_s, np.arange(12) / 12)
        assert reader.frame_s == pytest.approx(1 / 12)
        assert reader.duration_s == pytest.approx(1.0)
        assert np.allclose(levels(reader, [11, 0, 3, 3]), [110, 0, 30, 30], atol=1)
    with FrameFolder(folder, fps=12.0, template=template) as named:
        assert named.names == [template.format(n) for n in range(1, 13)]
        assert named.num_gaps == 0


def test_numbers_are_sorted_as_numbers(tmp_path):
    folder = write(tmp_path / "clip", ["2.png", "10.png", "1.png", "9.png"])
    assert FrameFolder(folder).names == ["1.png", "2.png", "9.png", "10.png"]


def test_suffixes_may_be_written_large_and_small(tmp_path):
    folder = write(tmp_path / "clip", ["1.jpg", "2.JPG"])
    assert FrameFolder(folder).names == ["1.jpg", "2.JPG"]


def test_gaps_are_counted_and_keep_their_time(tmp_path):
    folder = write(tmp_path / "clip", [f"{n:05d}.png" for n in (3, 4, 5, 8, 9, 11)])
    reader = FrameFolder(folder, fps=10.0)
    assert reader.num_gaps == 3
    assert np.allclose(reader.times_s, [0.0, 0.1, 0.2, 0.5, 0.6, 0.8])


def test_every_fifth_number_is_no_gap(tmp_path):
    folder = write(tmp_path / "clip", [f"{n:05d}.png" for n in (0, 5, 10, 20)])
    reader = FrameFolder(folder, fps=10.0)
    assert reader.num_gaps == 1
    assert np.allclose(reader.times_s, [0.0, 0.1, 0.2, 0.4])


def test_colours_are_rgb(tmp_path):
    folder = write(tmp_path / "clip", ["1.png"])
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 200
    cv2.imwrite(str(folder / "1.png"), red)
    picture = open_frames(folder).frames(np.array([0]))[0]
    assert (picture.shape, picture.dtype) == ((4, 6, 3), np.dtype(np.uint8))
    assert picture[0, 0].tolist() == [200, 0, 0]


def test_grey_pictures_have_three_equal_channels(tmp_path):
    folder = write(tmp_path / "clip", ["1.png"])
    cv2.imwrite(str(folder / "1.png"), np.full((4, 6), 77, np.uint8))
    picture = open_frames(folder).frames(np.array([0]))[0]
    assert picture.shape == (4, 6, 3)
    assert (picture == 77).all()


def test_other_files_do_not_disturb(tmp_path):
    folder = write(tmp_path / "clip", ["img_00001.jpg", "img_00002.jpg"])
    write(folder, ["flow_x_00001.jpg", "flow_y_00001.jpg", "._img_00003.jpg", "thumbnail.jpg"])
    (folder / "labels_001.txt").write_text("wave")
    assert FrameFolder(folder).names == ["img_00001.jpg", "img_00002.jpg"]


def test_a_template_chooses_among_kinds(tmp_path):
    folder = write(tmp_path / "clip", ["rgb_1.png", "rgb_2.png", "depth_1.png", "1_mask.png"])
    with pytest.raises(
        DataError, match=r"several kinds \(depth_….png, rgb_….png\); give a template"
    ):
        open_frames(folder)
    for template, names in (
        ("rgb_{:d}.png", ["rgb_1.png", "rgb_2.png"]),
        ("depth_{:03d}.png", ["depth_1.png"]),
        ("{:d}_mask.png", ["1_mask.png"]),
    ):
        assert FrameFolder(folder, template=template).names == names


def test_a_template_of_flow_pictures_is_followed(tmp_path):
    folder = write(tmp_path / "clip", ["flow_x_1.jpg", "img_1.jpg"])
    assert FrameFolder(folder, template="flow_x_{:05d}.jpg").names == ["flow_x_1.jpg"]


@pytest.mark.parametrize("template", ["img.jpg", "{:d}_{:d}.jpg", "img_{:s}.jpg"])
def test_a_wrong_template_is_refused(tmp_path, template):
    folder = write(tmp_path / "clip", ["1.jpg"])
    with pytest.raises(ValueError, match=r"a template has one field such as \{:05d\}, got"):
        open_frames(folder, template=template)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_wrong_rate_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be > 0, got"):
        open_frames(write(tmp_path / "clip", ["1.jpg"]), fps=fps)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"clip holds no numbered pictures \(\.jpg, .*of 0 pictures"
    ):
        open_frames(write(tmp_path / "clip", []))
    with pytest.raises(DataError, match=r"no numbered pictures named like a_\{:d\}\.jpg, of 1"):
        open_frames(write(tmp_path / "clip", ["1.jpg"]), template="a_{:d}.jpg")
    with pytest.raises(DataError, match=r"gone is not there"):
        FrameFolder(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_picture_is_named(tmp_path, content, capfd):
    folder = write(tmp_path / "clip", ["1.jpg", "2.jpg", "3.jpg"])
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[:-40] if content is None else content)
    with open_frames(folder) as reader:
        assert len(reader.frames(np.array([0, 2]))) == 2
        with pytest.raises(DataError, match=r"2\.jpg is no picture or damaged \(\d+ bytes\)"):
            reader.frames(np.array([0, 1]))
    assert capfd.readouterr().err == ""


def test_a_picture_that_went_away_is_named(tmp_path):
    folder = write(tmp_path / "clip", ["1.jpg"])
    with open_frames(folder) as reader:
        (folder / "1.jpg").unlink()
        with pytest.raises(DataError, match=r"1\.jpg cannot be read: No such file"):
            reader.frames(np.array([0]))


def test_a_number_that_is_not_there_is_refused(tmp_path):
    with open_frames(write(tmp_path / "clip", ["7.jpg", "8.jpg"])) as reader:
        assert reader.frames(np.array([], np.int64)) == []
        for numbers in ([2], [0, -1]):
            with pytest.raises(ValueError, match=r"clip has frames 0\.\.1, got"):
                reader.frames(np.array(numbers))


def test_facts_of_a_folder(tmp_path):
    folder = write(tmp_path / "clip", [f"{n}.png" for n in range(1, 9)], size=(20, 30))
    assert probe(folder, fps=4.0) == VideoFacts(
        num_frames=8,
        duration_s=2.0,
        fps=4.0,
        height_px=20,
        width_px=30,
        codec="png",
        pix_fmt="",
        rotation=0,
    )
