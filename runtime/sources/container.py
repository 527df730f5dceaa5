"""Is a video file whole? Containers that state their own sizes can be checked without decoding.

Frame counts in headers lie (edit lists, variable rates, estimates), sizes of boxes do not: a box
that reaches past the end of the file was cut off.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_BOX_HEADER_BYTES = 8
_LARGE_HEADER_BYTES = 16


def missing_bytes(path: Path) -> int:
    """Bytes that a file's own sizes promise and that are not there.

    Knows MP4 and QuickTime (ISO/IEC 14496-12, boxes) and AVI (RIFF); every other container
    counts as whole.

    Args:
        path: A video file.

    Returns:
        Bytes missing at the end; 0 for a whole file or a container without sizes. A lower bound:
        boxes that are missing altogether are not known.

    Raises:
        OSError: The file cannot be read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, _BOX_HEADER_BYTES + int.from_bytes(head[4:8], "little") - size_bytes)
        if head[4:8] in _FIRST_BOXES:
            return max(0, _end_of_boxes(file, size_bytes) - size_bytes)
    return 0


def _end_of_boxes(file: BinaryIO, size_bytes: int) -> int:
    """Offset at which the top-level boxes say that the file ends."""
    offset = 0
    while offset + _BOX_HEADER_BYTES <= size_bytes:
        file.seek(offset)
        box_bytes = _box_bytes(file.read(_LARGE_HEADER_BYTES))
        if box_bytes == 0:  # the last box reaches to the end of the file
            return size_bytes
        if box_bytes < _BOX_HEADER_BYTES:  # padding after the last box
            return offset
        offset += box_bytes
    return offset


def _box_bytes(header: bytes) -> int:
    small = int(struct.unpack(">I", header[:4])[0])
    if small == 1 and len(header) == _LARGE_HEADER_BYTES:
        return int(struct.unpack(">Q", header[8:])[0])
    return small
