"""A bundle's report: where it is, what it says in one line, and who judges what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.gate import ALLOWED_LOSS
from runtime.errors import ExportError, GateError

REPORT_SCHEMA = 1
REPORT = "report.json"
PAGE = "report.html"
REFUSED = "refused"  # suffix of the folder with the report of a bundle that was not made
# what a long stream is measured on: beside the export, and by `python -m export.drift`
STREAMS = ("drift", "long_drift")
LEAST_STEPS = 256


@dataclass(frozen=True)
class Verdict:
    """Whether to ship.

    Attributes:
        ships: No limit is exceeded.
        line: Why, in one line, for people.
    """

    ships: bool
    line: str

    def to_json(self) -> dict[str, Any]:
        """The verdict as the report stores it."""
        return {"ships": self.ships, "line": self.line}


def verdict_of(report: Mapping[str, Any], refused: str = "") -> Verdict:
    """Judge a report.

    Args:
        report: The report; its gate and long streams are read.
        refused: What a limit was exceeded by; "" looks at the long streams alone, for the other
            limits were held when the bundle was made.
    """
    faults = [refused] if refused else [str(fault) for fault in growing(report)]
    if faults:
        return Verdict(ships=False, line=f"Do not ship: {faults[0]}.")
    gate = report["gate"]
    clips, allowed = gate["clips"], gate["allowed_loss"]
    said = [
        f"INT8 {_change(clips['loss'], clips['count'], 'held-out clips')} "
        f"(95 % bound {points(clips['bound'])}, allowed {points(allowed)})"
    ]
    if gate["live"] is not None:
        live = gate["live"]
        said.append(f"{_change(live['loss'], live['count'], 'live actions')}")
    sizes = {file["kind"]: file["bytes"] for file in report["files"]}
    if {"step", "step_int8"} <= set(sizes):
        small, large = (megabytes(sizes[kind]) for kind in ("step_int8", "step"))
        said.append(f"its graph has {small}, the float one {large}")
    streams = [report[name] for name in STREAMS if report.get(name) is not None]
    if streams and all(is_short(stream) for stream in streams):
        said.append("drift not judged, the stream was too short")
    head = "Ships" if allowed <= ALLOWED_LOSS else "Ships, by a raised limit"
    return Verdict(ships=True, line=f"{head}: {'; '.join(said)}.")


def growing(report: Mapping[str, Any]) -> Iterator[str]:
    """What is to say of each long stream along which INT8 goes away from float."""
    for name in STREAMS:
        found = report.get(name)
        if found is None or is_short(found):
            continue
        if found["int8"]["grows"]:
            growth = max(found["int8"]["growth"], found["int8"]["ratio"])
            yield (
                f"INT8's distance to float grows along a stream, {growth:.1f} times in "
                f"{found['steps']:,} steps without a reset"
            )


def is_short(stream: Mapping[str, Any]) -> bool:
    """Whether a stream has too few steps to tell a drift from what the pictures show."""
    return bool(stream["steps"] - stream["block_steps"] < LEAST_STEPS)


def require_steady(report: Mapping[str, Any]) -> None:
    """Fail where a long stream drifts.

    Raises:
        GateError: INT8 goes away from float.
    """
    for fault in growing(report):
        raise GateError(f"{fault}; keep the states in float, or calibrate on more clips")


def read_report(folder: Path) -> dict[str, Any]:
    """Read a bundle's report.

    Raises:
        ExportError: Missing, damaged, or of another version.
    """
    path = folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ExportError(f"{path} cannot be read ({err}); export the bundle again") from err
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != REPORT_SCHEMA:
        raise ExportError(
            f"{path} has schema_version {version!r}, this version reads {REPORT_SCHEMA}; "
            "export the bundle again"
        )
    return dict(report)


def kept_float_of(folder: Path) -> dict[str, str]:
    """Convolutions that a bundle's export kept in float on purpose, each with the reason.

    Empty for a bundle that comes without its report, or with one that cannot be read.
    """
    try:
        report = read_report(folder)
    except ExportError:
        return {}
    kept = report.get("quantisation", {}).get("kept_float", ())
    return {str(each["conv"]): str(each["reason"]) for each in kept}


def points(share: float) -> str:
    """A share of 0..1 in percentage points.

    Example:
        >>> points(0.0053)
        '0.53 points'
    """
    return f"{100 * share:.2f} points"


def megabytes(count: int) -> str:
    """A file's size for people.

    Example:
        >>> megabytes(283_123)
        '0.28 MB'
    """
    return f"{count / 1e6:.2f} MB"


def _change(loss: float, count: int, what: str) -> str:
    if loss == 0:
        return f"loses nothing on {count:,} {what}"
    verb = "loses" if loss > 0 else "gains"
    return f"{verb} {points(abs(loss))} on {count:,} {what}"
