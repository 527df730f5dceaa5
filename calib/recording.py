"""What calibration recorded, and its form in a file."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.histogram import Histogram

DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Recording:
    """What was recorded, of all clips or of the first ones.

    Attributes:
        histograms: One for each observed tensor, by name.
        num_clips: Clips that were streamed.
        num_steps: Steps in all.
        num_resets: Steps that started from the zero state.
        unreadable: Why each other clip could not be read, in the order of the clips.
        num_known: Clips of these that an earlier run had dealt with already.
    """

    histograms: dict[str, Histogram]
    num_clips: int = 0
    num_steps: int = 0
    num_resets: int = 0
    unreadable: tuple[str, ...] = ()
    num_known: int = 0

    @property
    def num_done(self) -> int:
        """Clips that were dealt with: streamed, or found unreadable."""
        return self.num_clips + len(self.unreadable)

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {
            "clips": self.num_clips,
            "steps": self.num_steps,
            "resets": self.num_resets,
            "unreadable": len(self.unreadable),
        }


def bytes_of(recording: Recording) -> bytes:
    """A recording as a file's content: a SHA-256, then a numpy archive without pickles."""
    histograms = recording.histograms.values()
    facts = {
        "names": list(recording.histograms),
        "num_clips": recording.num_clips,
        "num_steps": recording.num_steps,
        "num_resets": recording.num_resets,
        "unreadable": list(recording.unreadable),
    }
    archive = io.BytesIO()
    np.savez(
        archive,
        facts=np.frombuffer(json.dumps(facts).encode("ascii"), np.uint8),
        counts=np.array([each.counts for each in histograms], np.int64),
        limit=np.array([each.limit for each in histograms], np.float64),
        largest=np.array([each.largest for each in histograms], np.float64),
        num_values=np.array([each.num_values for each in histograms], np.int64),
    )
    content = archive.getvalue()
    return hashlib.sha256(content).digest() + content


def recording_of(data: bytes) -> Recording:
    """A recording from a file's content.

    Raises:
        ValueError: It is damaged.
    """
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its content does not match its checksum")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        facts = json.loads(archive["facts"].tobytes())
        columns = [archive[name] for name in ("limit", "counts", "largest", "num_values")]
    histograms = {
        name: Histogram(float(limit), counts.copy(), float(largest), int(num_values))
        for name, limit, counts, largest, num_values in zip(
            facts.pop("names"), *columns, strict=True
        )
    }
    return Recording(histograms, **{**facts, "unreadable": tuple(facts["unreadable"])})
