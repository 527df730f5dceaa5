"""Float against INT8, ONNX Runtime against OpenVINO."""

from __future__ import annotations

from export.bench.effort import Effort
from export.bench.models import Models
from export.bench.values import Table, Value
from export.session_cost import session_costs

TEXT = (
    "The runtime's sessions on one thread, a step each in turn; CPU time. SQNR: logits of 16 steps "
    "against the same graph in ONNX Runtime with its optimisations off. Random weights make a deep "
    "network chaotic: what a trained one keeps is in docs/measurements/int8.md."
)
HEADER = ("backbone", "session", "step, ms", "÷ ONNX Runtime float32", "SQNR, dB", "to open, ms")


def measure(models: Models, effort: Effort) -> Table:
    """The table `engines`."""
    table = Table("engines", "Engines and precisions", TEXT, HEADER)
    for case in effort.cases:
        for cost in session_costs(models.bundle(case), rounds=effort.rounds):
            ratio = cost.ratio
            key = f"engines/{cost.bundle}/{cost.session}/ratio"
            table.values[key] = Value(ratio.median, ratio.low, ratio.high, "x", cost.rounds)
            decibels = "exact" if cost.sqnr_db > 200 else f"{cost.sqnr_db:.0f}"
            table.rows.append(
                (
                    cost.bundle,
                    cost.session,
                    f"{cost.ms:.2f}",
                    str(table.values[key]),
                    decibels,
                    f"{cost.opened_ms:.0f}",
                )
            )
    return table
