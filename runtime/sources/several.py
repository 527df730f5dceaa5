"""Several sources of one run, and names that tell them apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.sources.uri import SourceUri, parse_source


@dataclass(frozen=True)
class SourceText:
    """What the user wrote, and where.

    Attributes:
        text: A source; may hold a password.
        is_typed: It stands on the command line, where a pipeline may stand.
    """

    text: str = field(repr=False)
    is_typed: bool = True


def split_sources(text: str) -> list[str]:
    r"""The sources in an environment variable: one a line; URLs also by spaces, for they have none.

    Example:
        >>> split_sources("rtsp://front/1 rtsp://back/1")
        ['rtsp://front/1', 'rtsp://back/1']
        >>> split_sources("0\n/videos/my cat.mp4")
        ['0', '/videos/my cat.mp4']
    """
    words = text.split()
    if all("://" in word for word in words):
        return words
    return [line.strip() for line in text.splitlines() if line.strip()]


def parse_sources(wanted: Sequence[SourceText]) -> list[SourceUri]:
    """Tell what several sources are. Their names differ: a second of the same gets a number.

    Args:
        wanted: What the user wrote, one or more.

    Raises:
        ValueError: One is not known, or the same was given twice.

    Example:
        >>> parse_sources([SourceText(f"rtsp://cam/live?channel={n}") for n in (1, 2)])
        [SourceUri(network, rtsp://cam/live?***), SourceUri(network, rtsp://cam/live?*** (2))]
    """
    uris: list[SourceUri] = []
    targets: set[str] = set()
    names: set[str] = set()
    for each in wanted:
        uri = parse_source(each.text, allow_pipeline=each.is_typed)
        target = _what_is_read(uri)
        if target in targets:
            raise ValueError(f"{uri.name} is given twice; give each source once")
        targets.add(target)
        name, number = uri.name, 1
        while name in names:
            number += 1
            name = f"{uri.name} ({number})"
        names.add(name)
        uris.append(replace(uri, name=name))
    return uris


def _what_is_read(uri: SourceUri) -> str:
    """The same for two ways to write one source."""
    if uri.kind == "camera":
        path = f"/dev/video{uri.target}" if uri.target.isdecimal() else uri.target
        return os.path.realpath(path)
    if uri.kind == "file":
        return os.path.realpath(uri.target)
    return uri.target
