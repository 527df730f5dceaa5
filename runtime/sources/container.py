"""Is a video file whole? Containers that state their own sizes can be checked without decoding.

Frame counts in headers lie (edit lists, variable rates, estimates), sizes of boxes do not: a box
that reaches past the end of the file was cut off.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_EBML_ID = bytes.fromhex("1a45dfa3")
_SEGMENT_ID = bytes.fromhex("18538067")
_BOX_HEADER_BYTES = 8
_LARGE_HEADER_BYTES = 16


def missing_bytes(path: Path) -> int:
    """Bytes that a file's own sizes promise and that are not there.

    Knows MP4 and QuickTime (ISO/IEC 14496-12, boxes), AVI (RIFF), and Matroska and WebM (EBML,
    RFC 8794); every other container counts as whole.

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
        if head[:4] == _EBML_ID:
            return max(0, _end_of_segment(file) - size_bytes)
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


def _end_of_segment(file: BinaryIO) -> int:
    """Offset at which a Matroska file's segment says that it ends; 0 where it does not say."""
    file.seek(len(_EBML_ID))
    header_bytes = _vint(file)
    if header_bytes is None:
        return 0
    file.seek(header_bytes, 1)
    if file.read(len(_SEGMENT_ID)) != _SEGMENT_ID:
        return 0
    segment_bytes = _vint(file)
    return 0 if segment_bytes is None else file.tell() + segment_bytes


def _vint(file: BinaryIO) -> int | None:
    """An EBML size: as many bytes as the first has leading zero bits, plus one; None if unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_more = 8 - first[0].bit_length()
    size = int.from_bytes(first + file.read(num_more), "big")
    mask = (1 << 7 * (num_more + 1)) - 1
    return None if size & mask == mask else size & mask
