"""No machine of ours has a V4L2 device: answers are made here as the kernel lays them out."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from runtime.sources import v4l2
from runtime.sources.v4l2 import CAPABILITY, Device, camera_table, list_cameras
from tests.runtime.test_stream import STREAM

CAPTURE, META, STREAMING, HAS_DEVICE_CAPS = 0x1, 0x00800000, 0x04000000, 0x80000000


def answer(driver, card, device_caps, capabilities=0x84A00001):
    return CAPABILITY.pack(driver, card, b"usb-1", 0x60600, capabilities, device_caps)


ANSWERS = {
    "video0": answer(b"uvcvideo", "Caméra\x1b[2J USB".encode(), CAPTURE | STREAMING),
    "video1": answer(b"uvcvideo", b"Camera USB", META | STREAMING),
    "video2": answer(b"tegra-video", b"vi-output, imx219 9-0010", CAPTURE | STREAMING),
    "video3": answer(b"old", b"Grabber", 0, CAPTURE | STREAMING),  # from before device_caps
    "video10": answer(b"x", b"No stream", CAPTURE),
}


def ask(path):
    if path.name == "video4":
        raise PermissionError(errno.EACCES, "Permission denied")
    if path.name == "video5":
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
    return ANSWERS[path.name]


@pytest.fixture
def dev(tmp_path):
    for number in (0, 1, 2, 3, 4, 5, 10):
        (tmp_path / f"video{number}").touch()
    (tmp_path / "video-notes").touch()
    for folder, name, number in (
        ("by-path", "platform-usb-0:1:1.0-video-index0", 0),
        ("by-id", "usb-Maker_Camera_123-video-index0", 0),
        ("by-path", "platform-tegra-capture-vi-video-index0", 2),
    ):
        (tmp_path / "v4l" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "v4l" / folder / name).symlink_to(tmp_path / f"video{number}")
    return tmp_path


def test_every_device_with_its_stable_path_and_what_it_is_good_for(dev):
    found = {device.path.name: device for device in list_cameras(dev, ask)}
    assert list(found) == ["video0", "video1", "video2", "video3", "video4", "video5", "video10"]
    assert found["video0"].stable_path.name == "usb-Maker_Camera_123-video-index0"
    assert found["video2"].stable_path.name == "platform-tegra-capture-vi-video-index0"
    assert found["video1"].stable_path == found["video1"].path
    assert found["video0"].card == "Caméra?[2J USB"
    notes = {name: device.note for name, device in found.items()}
    assert notes["video0"] == notes["video3"] == ""
    assert notes["video1"] == "gives no pictures"
    assert notes["video2"].startswith("raw CSI sensor: use csi://")
    assert notes["video4"] == "no permission; add the user to the group `video`"
    assert notes["video5"] == "cannot be asked: Inappropriate ioctl for device"
    assert notes["video10"] == "cannot stream"


def test_the_table_leads_with_what_to_write_after_camera(dev):
    lines = camera_table(list_cameras(dev, ask)).splitlines()
    assert lines[0].split()[0].endswith("by-id/usb-Maker_Camera_123-video-index0")
    assert lines[0].split()[1].endswith("/video0")
    assert lines[1].endswith("Camera USB  (gives no pictures)")
    assert "plug a USB camera in" in camera_table([])
    assert camera_table([Device(dev, dev, "A")]) == f"{dev}  A"


def test_what_is_no_device_is_named_and_not_opened_twice(tmp_path):
    (tmp_path / "video0").touch()
    (device,) = list_cameras(tmp_path)
    assert device.note.startswith("cannot be asked: ")


def test_the_structure_is_the_kernels():
    assert CAPABILITY.size == 104
    assert 2 << 30 | 104 << 16 | ord("V") << 8 == v4l2.QUERYCAP


def test_the_command_lists_and_needs_no_source(tmp_path):
    done = subprocess.run(
        [sys.executable, str(STREAM), "--list-cameras"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("/dev/") or "no video device here" in done.stdout
