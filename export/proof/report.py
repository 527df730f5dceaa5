"""What a verification found: as JSON to keep, as Markdown to read, and beside an older one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.decibels import LARGEST_DB
from export.proof.expected import Expected
from export.proof.golden import BadStep, PictureCheck
from export.proof.latency import Timing
from runtime.device_facts import Facts
from runtime.errors import BundleError

REPORT_VERSION = 1
# p95 of a quiet machine repeats within a few per cent; a third more is no noise.
REGRESSION = 1.3
JUDGED_PARTS = ("step", "total")
MACHINE_FACTS = ("board", "cpu", "gpu", "power_mode", "l4t", "engine")


@dataclass(frozen=True)
class Check:
    """One way of running the golden sequence.

    Attributes:
        name: Which way, see `export.proof.golden`.
        steps: Logits that were compared.
        sqnr_db: SQNR to the stored logits of this precision; 999 where all are equal.
        needed_db: The least that passes.
        float_db: SQNR to the stored float logits.
        float_top1: Share of steps with the float logits' top-1, 0..1.
        bad: The first bad step; None where it passed.
        cause: What that usually means.
    """

    name: str
    steps: int
    sqnr_db: float
    needed_db: float
    float_db: float
    float_top1: float
    bad: BadStep | None = None
    cause: str = ""


@dataclass
class Proof:
    """What one precision showed; an engine that fails is not timed.

    Attributes:
        precision: Which of the bundle's graphs.
        engine: Engine, version, device, for people.
        checks: What was checked; it ends with the first that failed.
        timings: Latency.
        blind_to: Faults that the golden sequence would not show; see `export.proof.cause`.
        expected: What was predicted of this board before any was measured; None where nothing was.
        error: Why there is no engine or no answer; empty where there is.
    """

    precision: str
    engine: str = ""
    checks: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    blind_to: list[str] = field(default_factory=list)
    expected: Expected | None = None
    error: str = ""

    @property
    def failure(self) -> str:
        """What went wrong, on one line; empty where nothing did."""
        if self.error:
            return f"{self.precision}: {self.error}"
        for check in self.checks:
            if check.bad is not None:
                return f"{self.precision}, {check.name}: {_first_bad(check)}"
        return ""


@dataclass(frozen=True)
class Report:
    """Everything that `make verify` found.

    Attributes:
        bundle: Name of the bundle.
        model: Its facts about its model: backbone, temporal module.
        size_px: Height and width of its picture.
        graphs: Hash of each of its files.
        created_utc: When, ISO 8601.
        facts: What the device is.
        idle: Clocks and temperatures before.
        loaded: Clocks and temperatures right after the last steps.
        pictures: Preprocessing.
        proofs: One for each precision.
        live_interval_ms: How often a live stream steps.
    """

    bundle: str
    model: Mapping[str, Any]
    size_px: tuple[int, int]
    graphs: Mapping[str, str]
    created_utc: str
    facts: Facts
    idle: Facts
    loaded: Facts
    pictures: Sequence[PictureCheck]
    proofs: Sequence[Proof]
    live_interval_ms: float

    @property
    def failures(self) -> list[str]:
        """What went wrong, a line each."""
        pictures = [_picture_failure(check) for check in self.pictures if not check.passed]
        return pictures + [proof.failure for proof in self.proofs if proof.failure]

    def to_json(self) -> dict[str, Any]:
        """The report as `verify.json` holds it: finite numbers, no paths."""
        data = asdict(self) | {"verify_version": REPORT_VERSION, "passed": not self.failures}
        cleaned: dict[str, Any] = _plain(data)
        return cleaned

    def markdown(self) -> str:
        """The report as tables."""
        facts = {**self.facts}
        facts |= {f"{name}, idle": value for name, value in self.idle.items()}
        facts |= {f"{name}, after the steps": value for name, value in self.loaded.items()}
        parts = [
            f"## {self.bundle}\n",
            _table(("device", ""), ((name, str(value)) for name, value in facts.items())),
            _table(
                (
                    "precision",
                    "check",
                    "steps",
                    "SQNR dB",
                    "needed",
                    "to float",
                    "float's top-1",
                    "",
                ),
                self._check_rows(),
            ),
        ]
        timings = [(proof.precision, timing) for proof in self.proofs for timing in proof.timings]
        if timings:
            parts.append(
                _table(
                    ("precision", "schedule", "part", "steps", "p50 ms", "p95", "p99", "max"),
                    (_timing_row(precision, timing) for precision, timing in timings),
                )
            )
            parts.append(f"A live stream steps every {self.live_interval_ms:.0f} ms.\n")
        parts += self._expected_parts()
        parts += [
            f"{proof.precision}: the golden sequence would not show {' or '.join(proof.blind_to)}; "
            "judge this precision by its accuracy too\n"
            for proof in self.proofs
            if proof.blind_to
        ]
        parts += [f"**FAILED** {failure}\n" for failure in self.failures]
        return "\n".join(parts)

    def _expected_parts(self) -> list[str]:
        """Predicted beside measured; nothing where nothing was predicted."""
        expected = [(p.precision, p.expected) for p in self.proofs if p.expected is not None]
        if not expected:
            return []
        first = expected[0][1]
        return [
            _table(
                ("precision", "predicted ms", "measured ms", "measured ÷ predicted"),
                [(precision, *_expected_cells(each)) for precision, each in expected],
            ),
            f"Predicted on {first.made} for {first.device} at its highest clocks: GPU time of a "
            f"step, ± {first.spread:.0%}. Measured: p50 back to back, with copies "
            "(docs/jetson-prediction.md).\n",
        ]

    def _check_rows(self) -> Iterator[Sequence[str]]:
        for picture in self.pictures:
            height, width = picture.size_px
            what = f"camera picture {picture.number}, {width} x {height}"
            passed = "pass" if picture.passed else "FAIL"
            yield "", what, "", f"{picture.difference:.2f} levels", "<= 1", "", "", passed
        for proof in self.proofs:
            for check in proof.checks:
                numbers = (_decibels(check.sqnr_db), f"{check.needed_db:g}")
                to_float = (_decibels(check.float_db), f"{check.float_top1:.0%}")
                passed = "pass" if check.bad is None else "FAIL"
                yield proof.precision, check.name, str(check.steps), *numbers, *to_float, passed
            if proof.error:
                yield proof.precision, "engine", "", "", "", "", "", "FAIL"


def read_report(path: Path) -> dict[str, Any]:
    """A report that an earlier run wrote.

    Raises:
        BundleError: It is missing or no report of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["verify_version"] != REPORT_VERSION:
            raise ValueError(f"verify_version must be {REPORT_VERSION}")
        timings_by_key(data)
        dict(data["facts"]), dict(data["graphs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(
            f"{path} is no report of `make verify` ({type(err).__name__}: {err}); pass the JSON "
            "that an earlier run wrote"
        ) from err
    return dict(data)


@dataclass(frozen=True)
class Comparison:
    """This run beside an earlier one.

    Attributes:
        table: Ratios of p95, as Markdown.
        remarks: What else differs between the two.
        slower: What takes more than `REGRESSION` times as long, a line each.
    """

    table: str
    remarks: list[str]
    slower: list[str]


def compare_reports(new: Mapping[str, Any], old: Mapping[str, Any]) -> Comparison:
    """Ratios of p95, new to old, where both measured the same.

    Steps and totals are judged; preprocessing and decision alone are too short for that.

    Raises:
        BundleError: They have no measurement in common.
    """
    now, before = timings_by_key(new), timings_by_key(old)
    common = [key for key in now if key in before]
    if not common:
        raise BundleError("the two reports have no measurement in common; nothing is compared")
    rows, slower = [], []
    for key in common:
        old_ms, new_ms = before[key], now[key]
        ratio = new_ms / old_ms if old_ms > 0 else math.inf
        rows.append((*key, f"{old_ms:.2f}", f"{new_ms:.2f}", f"{ratio:.2f}"))
        if ratio > REGRESSION and key[2].startswith(JUDGED_PARTS):
            slower.append(
                f"{', '.join(key)}: p95 {new_ms:.2f} ms is {ratio:.2f} times {old_ms:.2f}"
            )
    header = ("precision", "schedule", "part", "p95 ms before", "now", "ratio")
    return Comparison(_table(header, rows), list(_differences(new, old)), slower)


def timings_by_key(report: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """p95 in milliseconds by precision, schedule and part."""
    return {
        (proof["precision"], timing["schedule"], timing["part"]): float(timing["p95_ms"])
        for proof in report["proofs"]
        for timing in proof["timings"]
    }


def without_folders(text: str) -> str:
    """A message without the folders of its paths: a report may be passed on.

    Example:
        >>> without_folders("/home/someone/bundle/step.onnx is missing")
        'step.onnx is missing'
    """
    return re.sub(r"(?<![\w.:/])~?/(?:[^\s/:;,'\"]+/)*(?=[^\s/:;,'\"])", "", text)


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    """What makes two reports no measurement of the same."""
    if new["graphs"] != old["graphs"]:
        yield "another bundle, or another export of it"
    for name in MACHINE_FACTS:
        then, now = old["facts"].get(name), new["facts"].get(name)
        if then != now:
            yield f"{name} was {then}, is {now}"


def _first_bad(check: Check) -> str:
    bad = check.bad
    if bad is None:
        return ""
    where = f"golden step {bad.visit.step} (phase {bad.visit.phase}, row {bad.visit.row})"
    before = "" if bad.before_db is None else f", {_decibels(bad.before_db)} dB before it"
    top1 = f'top-1 "{bad.top1_got}", '
    top1 += "as expected" if bad.top1_got == bad.top1_expected else f'not "{bad.top1_expected}"'
    return (
        f'first bad step is {where}: logit of "{bad.label}" is {bad.got:.4g}, expected '
        f"{bad.expected:.4g}; {top1}; SQNR {_decibels(bad.sqnr_db)} dB{before}, needed "
        f"{check.needed_db:g}. It usually means: {check.cause}"
    )


def _picture_failure(check: PictureCheck) -> str:
    return (
        f"golden camera picture {check.number} differs by {check.difference:.1f} levels, "
        f"allowed 1. It usually means: {check.cause}"
    )


def _timing_row(precision: str, timing: Timing) -> Sequence[str]:
    numbers = (timing.p50_ms, timing.p95_ms, timing.p99_ms, timing.max_ms)
    first = (precision, timing.schedule, timing.part, str(timing.count))
    return *first, *(f"{value:.2f}" for value in numbers)


def _expected_cells(expected: Expected) -> Sequence[str]:
    ratio = expected.measured_ms / expected.predicted_ms
    return f"{expected.predicted_ms:.2f}", f"{expected.measured_ms:.2f}", f"{ratio:.2f}"


def _decibels(value: float) -> str:
    if abs(value) < LARGEST_DB:
        return f"{value:.1f}"
    return "equal" if value > 0 else "no number"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | list[Any]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _plain(value: Any) -> Any:
    """JSON's own types; numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
