"""Put together what an export knows and measured: the report that the page is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from export.report.verdict import REPORT_SCHEMA
from runtime.bundle import Bundle
from runtime.machine import measured_on
from train.checkpoint import Facts

# two-sided 95 %
Z_95 = 1.96
ACCURACIES = (
    ("clip_top1", "clips", "top-1 on held-out clips"),
    ("live_top1", "live", "top-1 live, at each action's end"),
)
PRECISIONS = ("float32", "float16", "int8")


def compose(
    bundle: Bundle, facts: Facts, data_name: str, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """The report without its verdict.

    Args:
        bundle: The bundle with all its graphs, accuracies and versions.
        facts: What the checkpoint says.
        data_name: What the data set is called; never a path.
        measured: Parts that the export measured, by name; `gate` must be among them.
    """
    return {
        "schema_version": REPORT_SCHEMA,
        "name": bundle.name,
        "created_utc": bundle.created_utc,
        "made_on": measured_on(()),
        "versions": dict(bundle.versions),
        "accuracy": _accuracies(bundle.accuracy, measured["gate"]),
        "files": [
            {"kind": kind, "file": graph.file, "bytes": bundle.graph_path(kind).stat().st_size}
            for kind, graph in bundle.graphs.items()
        ],
        "model": {**bundle.model, "labels": list(bundle.labels)},
        "picture": bundle.picture.to_json(),
        "sampling": bundle.sampling.to_json(),
        "cost": asdict(facts.cost()),
        "training": _training(facts, data_name),
        **measured,
    }


def wilson(share: float, count: int) -> tuple[float, float]:
    """The two-sided 95 % interval of a share (Wilson, 1927).

    Args:
        share: 0..1.
        count: Examples, >= 1.

    Example:
        >>> [round(bound, 3) for bound in wilson(0.5, 100)]
        [0.404, 0.596]
    """
    spread = Z_95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _accuracies(measured: Mapping[str, float], gate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each kind of accuracy and precision that was measured."""
    rows = []
    for key, part, what in ACCURACIES:
        for precision in PRECISIONS:
            value, found = measured.get(f"{key}_{precision}"), gate[part]
            if value is None or found is None:
                continue
            low, high = wilson(value, found["count"])
            rows.append(
                {
                    "what": what,
                    "precision": precision,
                    "value": value,
                    "count": found["count"],
                    "low": round(low, 6),
                    "high": round(high, 6),
                }
            )
    return rows


def _training(facts: Facts, data_name: str) -> dict[str, Any]:
    """Where the weights come from, without a path of this machine."""
    recipe = {
        name: value
        for name, value in facts.recipe.items()
        if isinstance(value, str | int | float) and not _is_path(value)
    }
    return {
        "run": facts.name,
        "data": data_name,
        "metrics": {name: float(value) for name, value in facts.metrics.items()},
        "recipe": recipe,
    }


def _is_path(value: object) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)
