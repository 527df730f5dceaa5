"""The cameras of this machine, without opening a stream on any of them.

V4L2's own question is asked (VIDIOC_QUERYCAP,
https://docs.kernel.org/userspace-api/media/v4l/vidioc-querycap.html): opening every number with
OpenCV would take seconds, wake every camera, and fail on those in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DEV = Path("/dev")
QUERYCAP = 0x80685600  # _IOR('V', 0, struct v4l2_capability)
# driver, card, bus_info, version, capabilities, device_caps, reserved
CAPABILITY = struct.Struct("=16s32s32sIII12x")
VIDEO_CAPTURE = 0x1 | 0x1000  # single- and multi-planar
STREAMING = 0x04000000
HAS_DEVICE_CAPS = 0x80000000
CSI_DRIVER = "tegra-video"


@dataclass(frozen=True)
class Device:
    """A video device.

    Attributes:
        path: Its device file.
        stable_path: A link to it that stays when devices change numbers; `path` without one.
        card: Its name.
        note: Empty for a camera; otherwise why it cannot be used like this, or what to use.
    """

    path: Path
    stable_path: Path
    card: str
    note: str = ""


def ask_device(path: Path) -> bytes:
    """A device's answer to VIDIOC_QUERYCAP.

    Raises:
        OSError: No permission, no such device, or no video device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = bytearray(CAPABILITY.size)
        fcntl.ioctl(descriptor, QUERYCAP, answer)
        return bytes(answer)
    finally:
        os.close(descriptor)


def list_cameras(dev: Path = DEV, ask: Callable[[Path], bytes] = ask_device) -> list[Device]:
    """Every video device, by its number.

    Args:
        dev: The folder of device files.
        ask: Gives a device's capabilities.
    """
    numbered = {
        int(path.name.removeprefix("video")): path
        for path in dev.glob("video*")
        if re.fullmatch(r"video[0-9]+", path.name)
    }
    links = _stable_links(dev)
    found = []
    for _, path in sorted(numbered.items()):
        stable = links.get(path.resolve(), path)
        try:
            card, note = _card_and_note(ask(path))
        except OSError as err:
            card, note = "?", _trouble(err)
        found.append(Device(path, stable, card, note))
    return found


def camera_table(devices: Sequence[Device]) -> str:
    """The devices as lines for people, with what to do where there is none."""
    if not devices:
        return (
            "no video device here; plug a USB camera in, or on a Jetson try --camera csi://0\n"
            "(a container sees a camera only with --device /dev/video0)"
        )
    width = max(len(str(device.stable_path)) for device in devices)
    lines = []
    for device in devices:
        path = f"{device.stable_path!s:{width}}"
        number = "" if device.path == device.stable_path else f"  {device.path}"
        lines.append(f"{path}{number}  {device.card}" + (f"  ({device.note})" * bool(device.note)))
    return "\n".join(lines)


def _card_and_note(answer: bytes) -> tuple[str, str]:
    driver, card, _, _, capabilities, device_caps = CAPABILITY.unpack(answer)
    able = device_caps if capabilities & HAS_DEVICE_CAPS else capabilities
    name = _text(card)
    if _text(driver) == CSI_DRIVER:
        return name, "raw CSI sensor: use csi:// and its number, csi://0 for the first"
    if not able & VIDEO_CAPTURE:
        return name, "gives no pictures"
    if not able & STREAMING:
        return name, "cannot stream"
    return name, ""


def _text(field: bytes) -> str:
    """A C string from a device, fit for a terminal."""
    text = field.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text).strip()


def _trouble(err: OSError) -> str:
    if isinstance(err, PermissionError):
        return "no permission; add the user to the group `video`"
    return f"cannot be asked: {err.strerror or err}"


def _stable_links(dev: Path) -> dict[Path, Path]:
    """Device files and the link to use for each: by the camera's serial, else by its socket."""
    links: dict[Path, Path] = {}
    for folder in ("by-path", "by-id"):
        for link in sorted((dev / "v4l" / folder).glob("*")):
            links[link.resolve()] = link
    return links
