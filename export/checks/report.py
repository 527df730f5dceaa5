"""What the checks and NVIDIA's builder said about one graph, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checks.int8 import FloatMap
from export.checks.named import CHECKS, SEVERITIES, Finding, Severity
from export.engines.build_log import BuildCheck
from runtime.bundle import Precision

MAX_SHOWN = 8  # findings of one check; --all shows the rest


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in one graph.

    Attributes:
        path: The file.
        precision: What the graph is.
        facts: Versions and counts, for people.
        findings: What the static checks found.
        maps: Feature maps that cross a block's border in float, listed ones included.
        listed: Convolutions that stay in float on purpose, with the reason.
        built: What NVIDIA's builder made of it; None if it was not asked or refused.
        refusal: Why the builder refused it, or what it warned of; "" if it did not.
    """

    path: Path
    precision: Precision
    facts: Mapping[str, int]
    findings: tuple[Finding, ...]
    maps: tuple[FloatMap, ...]
    listed: Mapping[str, str]
    built: BuildCheck | None = None
    refusal: str = ""

    def count(self, severity: Severity) -> int:
        """Findings of a severity; the builder's refusal is an error."""
        refused = int(severity == "error" and bool(self.refusal))
        return refused + sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "file": str(self.path),
            "precision": self.precision,
            **self.facts,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [
                {
                    "check": finding.check,
                    "severity": finding.severity,
                    "where": finding.where,
                    "message": finding.message,
                }
                for finding in self.findings
            ],
            "float_maps": [
                {"maker": m.maker, "reader": m.reader, "reason": self.listed.get(m.reader)}
                for m in self.maps
            ],
            "float_convs": dict(self.listed),
            "build": _build_json(self.built, self.refusal),
        }


def _conv_precisions(built: BuildCheck) -> dict[str, int]:
    """How many of the engine's convolutions read which type."""
    kinds = Counter(layer.inputs[0] for layer in built.layers if layer.is_conv and layer.inputs)
    return dict(sorted(kinds.items()))


def _build_json(built: BuildCheck | None, refusal: str) -> dict[str, Any] | None:
    if built is None:
        return {"refused": refusal} if refusal else None
    return {
        "kernels": built.kernels,
        "plan_bytes": built.plan_bytes,
        "build_s": round(built.build_s, 3),
        "convolutions_by_type": _conv_precisions(built),
        "int8_convs": list(built.int8_convs),
        "other_convs": list(built.float_convs),
        "layers": [
            {"name": layer.name, "kind": layer.kind, "inputs": list(layer.inputs)}
            for layer in built.layers
        ],
    }


def report_lines(report: Report, shown: int = MAX_SHOWN) -> list[str]:
    """A report for people: findings by severity and check.

    Args:
        report: The report.
        shown: How many findings of one check are written out.
    """
    facts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in report.facts.items())
    lines = [f"{report.path}: {report.precision}; {facts}"]
    for severity in SEVERITIES:
        for check in CHECKS:
            group = [f for f in report.findings if f.check == check.name]
            if group and check.severity == severity:
                lines += _group_lines(severity, group, shown)
    lines += _map_lines(report)
    lines += _build_lines(report)
    counts = [plural(report.count(s), s if s != "info" else "note") for s in SEVERITIES]
    return [*lines, f"  {', '.join(counts)}"]


def _group_lines(severity: Severity, group: Sequence[Finding], shown: int) -> list[str]:
    lines = [f"  {severity}: {group[0].check} ({len(group)})"]
    lines += [f"    {finding.where}: {finding.message}" for finding in group[:shown]]
    if len(group) > shown:
        lines.append(f"    ... and {len(group) - shown} more (--all)")
    return lines


def _map_lines(report: Report) -> list[str]:
    if report.precision != "int8":
        return []
    excused = [each for each in report.maps if each.reader in report.listed]
    line = f"  feature maps that cross a block border in float: {len(report.maps)}"
    lines = [f"{line}, {len(excused)} of them listed" if report.maps else line]
    return lines + [f"    {name} stays in float: {why}" for name, why in report.listed.items()]


def _build_lines(report: Report) -> list[str]:
    if report.refusal:
        return [f"  error: NVIDIA's builder: {report.refusal}"]
    if report.built is None:
        return []
    kinds = ", ".join(f"{n} on {kind}" for kind, n in _conv_precisions(report.built).items())
    lines = [f"  NVIDIA's builder: {report.built}"]
    lines.append(f"    convolutions: {kinds or 'none'}")
    merged = report.facts["convolutions"] - sum(_conv_precisions(report.built).values())
    if merged > 0:
        lines.append(f"    convolutions without a kernel of their own: {merged}")
    if report.precision == "int8":
        lines += [f"    not on INT8: {name}" for name in report.built.float_convs]
    return lines


def plural(count: int, word: str) -> str:
    """A number with its word.

    Example:
        >>> plural(1, "error"), plural(0, "warning")
        ('1 error', '0 warnings')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"
