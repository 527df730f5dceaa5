"""Recordings are kept: the same graph, clips and preprocessing are not streamed a second time.

A file also holds what an unfinished run has recorded so far; the next run goes on from there.
The folder can be removed at any time, which costs nothing but time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import cv2
import onnxruntime as ort

from calib.clip_list import CalibrationClip
from calib.recording import Recording, bytes_of, recording_of
from runtime.bundle import StateSpec
from runtime.engine import default_engine_dir
from runtime.files import sha256_of, whole_file
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract

logger = logging.getLogger(__name__)

# The code that decides what is recorded: where it changes, nothing older is valid.
RECORDED_BY = (
    "calib.histogram",
    "calib.record",
    "calib.recording",
    "runtime.preprocess",
    "runtime.segments",
    "runtime.sources.capture",
    "runtime.sources.clock",
    "runtime.sources.file",
)


def default_cache_dir() -> Path:
    """`tdrl-edge/calibration` in the user's cache folder, beside the engines."""
    return default_engine_dir().with_name("calibration")


def recording_key(
    observed: Path,
    states: Sequence[StateSpec],
    clips: Sequence[CalibrationClip],
    picture: PictureRule,
    sampling: SamplingContract,
) -> str:
    """What a recording depends on, as 64 hexadecimal digits.

    Files of the clips count by size and time of change, not by content: a key takes no longer
    than a look at each. How many logits a decision averages changes nothing and is left out.

    Args:
        observed: The observed step graph; counts by content.
        states: Its states.
        clips: What is streamed, in that order.
        picture: The model's picture rule.
        sampling: The sampling contract.

    Raises:
        OSError: The graph cannot be read.
    """
    parts = {
        "code": [_source_digest(name) for name in RECORDED_BY],
        "libraries": [ort.__version__, cv2.__version__],
        "graph": sha256_of(observed),
        "states": [state.to_json() for state in states],
        "clips": [[asdict(clip), _stamp(Path(clip.path))] for clip in clips],
        "picture": picture.to_json(),
        "sampling": [sampling.num_segments, sampling.window_s],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


class RecordingFile:
    """One recording in a cache folder.

    Whoever reads it while others write sees one whole file or none. A file that is damaged, or
    cannot be written, costs one warning and time, never the export.

    Args:
        folder: The cache folder; made when something is written.
        key: What is recorded, see `recording_key`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key[:32]}.recording"
        self._writes = True

    def load(self) -> Recording | None:
        """What is there, finished or not; None where there is nothing that can be used."""
        try:
            return recording_of(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            logger.warning(
                "calibration cache %s cannot be used, recording anew: %s", self.path, err
            )
            return None

    def save(self, recording: Recording) -> None:
        """Keep a recording; after a failure no more is tried."""
        if not self._writes:
            return
        try:
            with whole_file(self.path) as part:
                part.write_bytes(bytes_of(recording))
        except OSError as err:
            self._writes = False
            logger.warning(
                "calibration goes on, but is not kept for the next run: %s cannot be written: %s",
                self.path,
                err,
            )


def _source_digest(module: str) -> str:
    return sha256_of(Path(str(import_module(module).__file__)))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
