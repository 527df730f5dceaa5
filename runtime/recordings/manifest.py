"""A recording: a folder of JPEG pictures, and `recording.json` that says when and why.

    DIR/20261125T011748.123Z-sitting/000000.jpg ...     the pictures, in order
    DIR/20261125T011748.123Z-sitting/recording.json     their times, the action, its decisions

Stream times are those of the run. Only the first picture carries the time of its tick, which is at
most one frame earlier than its own: a replay starts its schedule there, and so every later tick
falls on the picture that it fell on live.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.errors import SourceError

RECORDING_JSON = "recording.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a replay has to be given to decide alike.

    Attributes:
        bundle: The bundle's name.
        bundle_sha256: Hash of its `bundle.json`, which holds those of its files.
        window_s: Seconds that a window spanned.
        phases: Interleaved phases.
        temperature: What divided the logits.
        policy: The policy, as files hold it.
    """

    bundle: str
    bundle_sha256: str
    window_s: float
    phases: int
    temperature: float
    policy: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `recording.json` holds.

    Attributes:
        recording_id: 32 hexadecimal digits that no other recording has.
        source: Name of the source, without credentials.
        is_live: Whether the source was a camera or stream; a file gives the same frames again.
        utc: Wall clock when the action was reported, ISO 8601.
        label: What the model said.
        start_s: Stream time at which the action started, dated back by the policy's lag.
        end_s: Stream time at which it ended; None where the recording ends before.
        peak_prob: Largest probability of the action, 0..1.
        run: What a replay needs.
        times_s: Stream times of the pictures, seconds, in their order.
        lost_frames: Frames that should be here and are not: the disk was too slow.
        decisions: The decisions of the time, as lines of the event file.
    """

    recording_id: str
    source: str
    is_live: bool
    utc: str
    label: str
    start_s: float
    end_s: float | None
    peak_prob: float
    run: RunFacts
    times_s: tuple[float, ...]
    lost_frames: int = 0
    decisions: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.times_s or not all(map(math.isfinite, self.times_s)):
            raise ValueError(f"times_s must be finite numbers, got {self.times_s[:5]}")

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"schema_version": SCHEMA, **asdict(self)}


def is_recording(folder: Path) -> bool:
    """Whether a folder is a recording, and no other folder of pictures."""
    return (folder / RECORDING_JSON).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read what a recording says about itself.

    Raises:
        SourceError: It is no recording, damaged or of another version.
    """
    path = folder / RECORDING_JSON
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SourceError(
            f"{folder} is no recording of --record: {RECORDING_JSON} cannot be read "
            f"({err.strerror})"
        ) from err
    except ValueError as err:
        raise SourceError(f"{path} is damaged: {err}") from err
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA:
        raise SourceError(
            f"{path} is of another version than this program reads ({SCHEMA}); use the program "
            "that wrote it"
        )
    try:
        return _manifest_of(data)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise SourceError(f"{path} is damaged: {type(err).__name__} {err}") from err


def _manifest_of(data: Mapping[str, Any]) -> Manifest:
    run = data["run"]
    end_s = data["end_s"]
    return Manifest(
        recording_id=str(data["recording_id"]),
        source=str(data["source"]),
        is_live=bool(data["is_live"]),
        utc=str(data["utc"]),
        label=str(data["label"]),
        start_s=float(data["start_s"]),
        end_s=None if end_s is None else float(end_s),
        peak_prob=float(data["peak_prob"]),
        run=RunFacts(**{one.name: run[one.name] for one in fields(RunFacts)}),
        times_s=tuple(float(time_s) for time_s in data["times_s"]),
        lost_frames=int(data["lost_frames"]),
        decisions=tuple(dict(decision) for decision in data["decisions"]),
    )
