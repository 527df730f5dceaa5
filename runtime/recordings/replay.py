"""Whether a run is set up as the one that made a recording: else it may decide otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from runtime.bundle import Bundle
from runtime.recordings.facts import facts_of
from runtime.recordings.manifest import Manifest, is_recording, read_manifest
from runtime.sources.uri import SourceUri

logger = logging.getLogger(__name__)


def refuse_copies(uris: Iterable[SourceUri]) -> None:
    """Refuse to record a recording: training would take the copy for another session.

    Raises:
        ValueError: A source is a recording.
    """
    for uri in uris:
        if uri.kind == "file" and is_recording(Path(uri.target)):
            raise ValueError(f"{uri.name} is a recording already; replay it without --record")


def tell_replays(uris: Iterable[SourceUri], bundle: Bundle, phases: int) -> None:
    """Warn where a source is a recording that was made with other settings.

    Raises:
        SourceError: A recording is damaged.
    """
    for uri in uris:
        if uri.kind == "file" and is_recording(Path(uri.target)):
            for difference in differences(read_manifest(Path(uri.target)), bundle, phases):
                logger.warning("%s may decide otherwise than live: %s", uri.name, difference)


def differences(recording: Manifest, bundle: Bundle, phases: int) -> list[str]:
    """What is set otherwise than when a recording was made, for people.

    Args:
        recording: What it says about itself.
        bundle: The bundle now, with the window and policy in use.
        phases: Interleaved phases now.
    """
    then, now = recording.run, facts_of(bundle, phases)
    found = []
    if now.bundle_sha256 != then.bundle_sha256:
        found.append(f"bundle {now.bundle}, was {then.bundle} of another export")
    if now.phases != then.phases:
        found.append(f"phases {now.phases}, were {then.phases} (--phases {then.phases})")
    if now.window_s != then.window_s:
        found.append(f"window {now.window_s:g} s, was {then.window_s:g} s")
    if (now.temperature, now.policy) != (then.temperature, then.policy):
        found.append("another policy or temperature")
    return found
